"""When a callback looks at a rollout: at its first optimizer step, once its metrics are there."""

from lit_g2rpo.experience import Experience
from lit_g2rpo.training.run import RunHandles


class RolloutWatch:
    """Hand a callback each rollout once, at its first optimizer step."""

    def __init__(self) -> None:
        self._rollout = 0
        self._step = 0

    def start(self, run: RunHandles) -> None:
        """Begin at the present, which in a resumed run is not zero."""
        self._rollout, self._step = run.rollout_index, run.trainer.global_step

    def new_rollout(self, run: RunHandles) -> Experience | None:
        """Return this rank's part of a rollout if the training batch just done made the first step from it."""
        rollout, step = run.rollout_index, run.trainer.global_step
        stepped, self._step = step != self._step, step
        if not stepped or rollout == self._rollout:
            return None
        self._rollout = rollout
        assert run.experience is not None, "a step follows a rollout"
        return run.experience


def present_tasks(run: RunHandles, rollout: Experience) -> set[str]:
    """Name the tasks that a rollout has prompts of on any rank; metrics of the others are those of an earlier one."""
    names = list(run.tasks)
    return {names[k] for k in set(rollout.table.task_ids.tolist())}
