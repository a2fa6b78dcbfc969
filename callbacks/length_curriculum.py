"""Move each task's length band from the policy's starting length to the configured length."""

import math
from dataclasses import asdict
from typing import Any, Literal

import lightning.pytorch as L
from typing_extensions import override

from lit_g2rpo.callbacks.logged import metric
from lit_g2rpo.callbacks.watch import RolloutWatch, present_tasks
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import LengthBand
from lit_g2rpo.training.run import RunHandles, handles

# About five rollouts, so that the noise of a single rollout does not move a band far.
MEMORY = 0.8


class LengthCurriculum(L.Callback):
    """Start each task's length band around the policy's own length and move it linearly to the configured band.

    The first rollout with a task measures the task's mean length; it is scored with the configured band, or without a
    length reward if that band is relative to this mean. After that, the band starts as the configured one, widened so
    that its plateau includes that length, and narrows. A band moves right after a rollout is scored, and applies from
    the next rollout; all four thresholds are logged as ``length_band/<threshold>/<task>``. A task whose band is
    relative to the reference answer is not changed. The configured bands are restored when the run ends.

    Args:
        rollouts: number of rollouts from the first band to the configured one under ``schedule``.
        target: what moves a band: the ``schedule``, or the task's ``running_mean`` length, whose progress toward the
            configured plateau the band follows, without ever moving back.

    Raises:
        UserError: if ``rollouts`` is below 1, or the target is unknown.
    """

    def __init__(self, rollouts: int = 50, target: Literal["schedule", "running_mean"] = "schedule") -> None:
        if rollouts < 1:
            raise UserError(f"LengthCurriculum.rollouts is {rollouts}; it must be at least 1 rollout")
        if target not in ("schedule", "running_mean"):
            raise UserError(f"LengthCurriculum.target is {target!r}; it must be schedule or running_mean")
        self.rollouts = rollouts
        self.target = target
        self._watch = RolloutWatch()
        self._configured: dict[str, LengthBand | None] = {}
        self._measured: dict[str, dict[str, float]] = {}

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        self._watch.start(run)
        self._configured = {
            name: task.length
            for name, task in run.tasks.items()
            if task.length is not None or (task.relative_length is not None and task.relative_length.unit == "start")
        }
        # in a resumed run, restore their position
        self._move(run)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = handles(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None:
            return
        for name in present_tasks(run, rollout) & self._configured.keys():
            length = metric(trainer, f"rollout/length/{name}")
            if length is not None and math.isfinite(length):
                self._measure(name, length, run.rollout_index)
        self._move(run)
        bands = {name: run.tasks[name].length for name in self._configured if name in self._measured}
        pl_module.log_dict(
            {
                f"length_band/{threshold}/{name}": value
                for name, band in bands.items()
                if band is not None
                for threshold, value in asdict(band).items()
            },
            on_step=True,
            on_epoch=False,
        )

    def _measure(self, name: str, length: float, rollout: int) -> None:
        if name not in self._measured:
            self._measured[name] = {"length": length, "rollout": rollout, "running": length}
            return
        measured = self._measured[name]
        measured["running"] = MEMORY * measured["running"] + (1 - MEMORY) * length

    def _move(self, run: RunHandles) -> None:
        for name, configured in self._configured.items():
            if name not in self._measured:
                continue
            measured, relative = self._measured[name], run.tasks[name].relative_length
            start = measured["length"]
            final = configured if relative is None else relative.at(start)
            assert final is not None, "what is noted is a band or relative to the start"
            if self.target == "schedule":
                progress = (run.rollout_index - measured["rollout"]) / self.rollouts
            else:
                progress = max(measured.get("progress", 0.0), covered(final, start, measured["running"]))
                measured["progress"] = progress
            run.tasks[name].length = interpolate(around(final, start), final, progress)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # a later fit in the same process starts from the configured bands
        tasks = handles(pl_module).tasks if self._configured else {}
        for name, configured in self._configured.items():
            tasks[name].length = configured
        self._configured = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        # starting lengths in tokens, their rollouts, and the progress; the config determines the final bands
        return {"measured": {name: dict(value) for name, value in self._measured.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured = {name: dict(value) for name, value in state_dict["measured"].items()}


def around(band: LengthBand, length: float) -> LengthBand:
    """Widen a band so that its plateau includes a length, tokens; the ramps keep their width if possible."""
    low = min(band.low, length)
    high = max(band.high, length)
    return LengthBand(
        minimum=max(0.0, low - (band.low - band.minimum)), low=low, high=high, maximum=high + (band.maximum - band.high)
    )


def covered(band: LengthBand, start: float, length: float) -> float:
    """Compute the progress of a length from a starting length to a band's plateau.

    Returns:
        Progress from 0 to 1; 1 if the starting length was on the plateau.
    """
    goal = min(max(start, band.low), band.high)
    return 1.0 if goal == start else min(max((length - start) / (goal - start), 0.0), 1.0)


def interpolate(start: LengthBand, end: LengthBand, progress: float) -> LengthBand:
    """Interpolate between two bands by a share of the way, and end at the second one."""
    if progress >= 1:
        return end
    first, last = asdict(start), asdict(end)
    return LengthBand(**{name: value + (last[name] - value) * progress for name, value in first.items()})
