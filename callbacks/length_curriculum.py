"""Move each task's length band from what the policy writes to what it should write."""

import math
from typing import Any

import lightning.pytorch as L

from lit_g2rpo.callbacks.handles import RolloutWatch, handles, metric
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import LengthBand


class LengthCurriculum(L.Callback):
    """Starts each task's length band around the policy's own length and moves it linearly to the configured band.

    The first rollout in which a task occurs is scored with its configured band and measures the task's mean length.
    From then on the band is the configured one, widened so that its plateau holds that length, and it narrows with
    every rollout. A move takes place right after a rollout was scored, so it holds from the next one on. The
    configured bands are put back when the run ends.

    Args:
        rollouts: length of the way from the first band to the configured one, rollouts.

    Raises:
        UserError: if ``rollouts`` is below 1.
    """

    def __init__(self, rollouts: int = 50) -> None:
        if rollouts < 1:
            raise UserError(f"LengthCurriculum.rollouts is {rollouts}; it must be at least 1 rollout")
        self.rollouts = rollouts
        self._watch = RolloutWatch()
        self._final: dict[str, LengthBand] = {}
        self._measured: dict[str, dict[str, float]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the configured bands and, in a resumed run, move them to where they were."""
        run = handles(pl_module)
        self._watch.start(trainer, pl_module)
        self._final = {name: task.length for name, task in run.tasks.items() if task.length is not None}
        self._move(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure new tasks and move all bands, once per rollout."""
        if not self._watch.fires(trainer, pl_module):
            return
        run = handles(pl_module)
        for name in self._final:
            length = metric(trainer, f"rollout/length/{name}")
            if name not in self._measured and length is not None and math.isfinite(length):
                self._measured[name] = {"length": length, "rollout": run.rollout_index}
        self._move(pl_module)
        bands = {name: run.tasks[name].length for name in self._measured if name in self._final}
        pl_module.log_dict(
            {
                f"length_band/{side}/{name}": getattr(band, side)
                for name, band in bands.items()
                for side in ("low", "high")
            },
            on_step=True,
            on_epoch=False,
        )

    def _move(self, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        for name, final in self._final.items():
            if name in self._measured:
                measured = self._measured[name]
                progress = (run.rollout_index - measured["rollout"]) / self.rollouts
                run.tasks[name].length = interpolate(around(final, measured["length"]), final, progress)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the configured bands back, so that a later fit in the same process starts from them."""
        tasks = handles(pl_module).tasks if self._final else {}
        for name, final in self._final.items():
            tasks[name].length = final
        self._final = {}

    def state_dict(self) -> dict[str, Any]:
        """Return each task's measured length, tokens, and the rollout it was measured in."""
        return {"measured": {name: dict(value) for name, value in self._measured.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the measurements of a checkpoint; where the bands end is the configuration's matter."""
        self._measured = {name: dict(value) for name, value in state_dict["measured"].items()}


def around(band: LengthBand, length: float) -> LengthBand:
    """Widen a band so that its plateau holds a length; the ramps keep their width where the length allows it.

    Args:
        band: the band, tokens.
        length: the length to hold, tokens.
    """
    low = min(band.low, length)
    high = max(band.high, length)
    return LengthBand(
        minimum=max(0.0, low - (band.low - band.minimum)), low=low, high=high, maximum=high + (band.maximum - band.high)
    )


def interpolate(start: LengthBand, end: LengthBand, progress: float) -> LengthBand:
    """Find the band at a point of the way from one band to another.

    Args:
        start: band at progress 0, tokens.
        end: band at progress 1 and beyond, tokens.
        progress: share of the way that is done.
    """
    if progress >= 1:
        return end

    def between(first: float, last: float) -> float:
        return first + (last - first) * progress

    return LengthBand(
        minimum=between(start.minimum, end.minimum),
        low=between(start.low, end.low),
        high=between(start.high, end.high),
        maximum=between(start.maximum, end.maximum),
    )
