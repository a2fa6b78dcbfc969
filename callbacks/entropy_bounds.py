"""Watch each task's sampling entropy against its band."""

import math
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_g2rpo.callbacks.handles import RolloutWatch, handles, metric
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand


class EntropyBounds(L.Callback):
    """Compares the entropy of each rollout with the task's band, keeps a gauge, and warns or stops when it stays out.

    The gauge ``entropy_bounds/<task>`` is the signed distance to the band, nats: 0 inside, positive above, negative
    below; ``entropy_bounds/outside/<task>`` is the fraction of rollouts so far that were outside. The entropy is the
    one of the sampled tokens over all ranks, so that every rank decides alike.

    Args:
        patience: consecutive rollouts outside the band before the callback acts, rollouts.
        action: ``warn`` says so once for each time the entropy leaves the band, ``stop`` also ends the training.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(self, patience: int = 10, action: Literal["warn", "stop"] = "warn") -> None:
        if patience < 1:
            raise UserError(f"EntropyBounds.patience is {patience}; it must be at least 1 rollout")
        if action not in ("warn", "stop"):
            raise UserError(f"EntropyBounds.action is {action!r}; it must be 'warn' or 'stop'")
        self.patience = patience
        self.action = action
        self._watch = RolloutWatch()
        self._consecutive: dict[str, int] = {}
        self._outside: dict[str, int] = {}
        self._observed: dict[str, int] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the rollouts that a resumed run already has."""
        self._watch.start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the entropy of a rollout, once, right after it was sampled."""
        if not self._watch.fires(trainer, pl_module):
            return
        run = handles(pl_module)
        gauges: dict[str, float] = {}
        for name, task in run.tasks.items():
            entropy = metric(trainer, f"rollout/entropy/{name}")
            if task.entropy is None or entropy is None or not math.isfinite(entropy):
                continue
            distance = band_distance(entropy, task.entropy)
            self._observed[name] = self._observed.get(name, 0) + 1
            self._outside[name] = self._outside.get(name, 0) + (distance != 0)
            self._consecutive[name] = self._consecutive.get(name, 0) + 1 if distance else 0
            gauges[f"entropy_bounds/{name}"] = distance
            gauges[f"entropy_bounds/outside/{name}"] = self._outside[name] / self._observed[name]
            if self._consecutive[name] == self.patience:
                self._act(trainer, name, task.entropy, entropy)
        pl_module.log_dict(gauges, on_step=True, on_epoch=False)

    def _act(self, trainer: L.Trainer, name: str, band: EntropyBand, entropy: float) -> None:
        if entropy > band.high:
            side, cure = "above", "lower the sampling temperature or the learning rate"
        else:
            side, cure = "below", "raise the sampling temperature or lower the learning rate"
        rank_zero_warn(
            f"entropy of task {name!r} has been {side} its band [{band.low:g}, {band.high:g}] nats for "
            f"{self.patience} rollouts (now {entropy:.3f}): raise model.objective.entropy_coefficient, {cure}, "
            "or widen the task's band"
        )
        if self.action == "stop":
            trainer.should_stop = True
            rank_zero_info(f"EntropyBounds stops the training because of task {name!r}.")

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of every task."""
        return {
            "consecutive": dict(self._consecutive),
            "outside": dict(self._outside),
            "observed": dict(self._observed),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the counts of a checkpoint."""
        self._consecutive = dict(state_dict["consecutive"])
        self._outside = dict(state_dict["outside"])
        self._observed = dict(state_dict["observed"])


def band_distance(entropy: float, band: EntropyBand) -> float:
    """Measure how far an entropy is outside its band.

    Args:
        entropy: mean token entropy, nats.
        band: the band, nats.

    Returns:
        Signed distance, nats: 0 inside, positive above, negative below.
    """
    return max(0.0, entropy - band.high) - max(0.0, band.low - entropy)
