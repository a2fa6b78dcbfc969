"""The moment when a callback sees a rollout: at its first optimizer step, once its metrics are available."""

from lit_g2rpo.experience import Experience
from lit_g2rpo.training.run import RunHandles


class RolloutWatch:
    """Give a callback each rollout once, at its first optimizer step."""

    def __init__(self) -> None:
        self._rollout = 0
        self._step = 0

    def start(self, run: RunHandles) -> None:
        """Start at the current rollout, which is not zero in a resumed run."""
        self._rollout, self._step = run.rollout_index, run.trainer.global_step

    def new_rollout(self, run: RunHandles) -> Experience | None:
        """Return this rank's part of a rollout if the last training batch made the first step from it."""
        rollout, step = run.rollout_index, run.trainer.global_step
        stepped, self._step = step != self._step, step
        if not stepped or rollout == self._rollout:
            return None
        self._rollout = rollout
        assert run.experience is not None, "a step follows a rollout"
        return run.experience


def present_tasks(run: RunHandles, rollout: Experience) -> set[str]:
    """List the tasks with prompts in a rollout, on any rank; metrics of other tasks are from an earlier rollout."""
    names = list(run.tasks)
    return {names[k] for k in set(rollout.table.task_ids.tolist())}
