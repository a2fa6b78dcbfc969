"""Watch each task's sampling entropy against its band, and act when it stays outside."""

import math
from typing import Any, Literal, get_args

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lit_g2rpo.callbacks.learning_rate import scale_learning_rate
from lit_g2rpo.callbacks.logged import metric
from lit_g2rpo.callbacks.watch import RolloutWatch, present_tasks
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand
from lit_g2rpo.training.run import RunHandles, handles

Action = Literal["warn", "adapt", "lower_lr", "stop"]


class EntropyBounds(L.Callback):
    """Compare the entropy of each rollout with the task's band, log a gauge, and act when it stays outside.

    The gauge ``entropy_bounds/<task>`` is the signed distance to the band, nats: 0 inside, positive above, negative
    below; ``entropy_bounds/outside/<task>`` is the fraction of the task's rollouts so far that were outside. A task
    without prompts in a rollout is not counted and logs no gauge. The entropy is the one that the objective shapes,
    exact or sampled, over the tokens of all ranks, so every rank makes the same decision.

    Args:
        patience: consecutive rollouts on one side of the band before the callback acts, rollouts.
        action: ``warn`` prints a warning each time the entropy leaves the band; ``stop`` also ends the training. After
            every further ``patience`` rollouts outside, ``adapt`` multiplies the task's entropy coefficient by
            ``factor``, and divides it when the entropy crosses from one side to the other (the scale is logged as
            ``entropy_bounds/scale/<task>``); ``lower_lr`` divides the learning rate of all tasks.
        factor: factor of one ``adapt`` or ``lower_lr`` action.
        limit: the scale of a coefficient stays between ``1 / limit`` and ``limit``; the total factor of the learning
            rate is at most this.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(self, patience: int = 10, action: Action = "warn", factor: float = 2.0, limit: float = 8.0) -> None:
        if patience < 1:
            raise UserError(f"EntropyBounds.patience is {patience}; it must be at least 1 rollout")
        if action not in get_args(Action):
            raise UserError(f"EntropyBounds.action is {action!r}; it must be warn, adapt, lower_lr or stop")
        if not 1 < factor <= limit < math.inf:
            raise UserError(f"EntropyBounds needs 1 < factor <= limit, finite; got factor {factor} and limit {limit}")
        self.patience, self.action = patience, action
        self.factor, self.limit = factor, limit
        self._watch = RolloutWatch()
        self._consecutive: dict[str, int] = {}
        self._outside: dict[str, int] = {}
        self._observed: dict[str, int] = {}
        self._side: dict[str, int] = {}
        self._scale: dict[str, float] = {}
        self._lowered = 1.0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        self._watch.start(run)
        if run.learning_rate_renewed:
            self._lowered = 1.0
        if self.action != "adapt":
            return
        if not run.objective.entropy_coefficient:
            raise UserError(
                "EntropyBounds.action is adapt, but model.objective.entropy_coefficient is 0: there is nothing to "
                "scale; give a coefficient, such as 0.02"
            )
        self._set_scales(run, self._scale)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = handles(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None:
            return
        source = "rollout/nll" if run.objective.entropy == "sampled" else "rollout/entropy"
        present = present_tasks(run, rollout)
        gauges: dict[str, float] = {}
        for name, task in run.tasks.items():
            entropy = metric(trainer, f"{source}/{name}") if name in present else None
            if task.entropy is None or entropy is None or not math.isfinite(entropy):
                continue
            distance = band_distance(entropy, task.entropy)
            crossed = self._count(name, (distance > 0) - (distance < 0))
            gauges[f"entropy_bounds/{name}"] = distance
            gauges[f"entropy_bounds/outside/{name}"] = self._outside[name] / self._observed[name]
            if distance:
                self._act(trainer, name, task.entropy, entropy, crossed)
            if self.action == "adapt":
                task.entropy_scale = self._scale.get(name, 1.0)
                gauges[f"entropy_bounds/scale/{name}"] = task.entropy_scale
        pl_module.log_dict(gauges)

    def _count(self, name: str, side: int) -> bool:
        """Count a rollout of a task, and return whether it is the first outside since one on the other side."""
        self._observed[name] = self._observed.get(name, 0) + 1
        self._outside[name] = self._outside.get(name, 0) + (side != 0)
        crossed = side != 0 and self._side.get(name, side) == -side
        self._consecutive[name] = 0 if side == 0 else 1 if crossed else self._consecutive.get(name, 0) + 1
        self._side[name] = side or self._side.get(name, 0)
        return crossed

    def _act(self, trainer: L.Trainer, name: str, band: EntropyBand, entropy: float, crossed: bool) -> None:
        if self.action == "adapt" and crossed:
            self._rescale(name, 1 / self.factor)
            return
        if self._consecutive[name] % self.patience:
            return
        first = self._consecutive[name] == self.patience
        above = entropy > band.high
        if first:
            cure = "lower the sampling temperature or" if above else "raise the sampling temperature or lower"
            rank_zero_warn(
                f"entropy of task {name!r} has been {'above' if above else 'below'} its band [{band.low:g}, "
                f"{band.high:g}] nats for {self.patience} rollouts (now {entropy:.3f}): raise "
                f"model.objective.entropy_coefficient, {cure} the learning rate, or widen the task's band"
            )
        if self.action == "adapt":
            self._rescale(name, self.factor)
        elif self.action == "lower_lr" and self._lowered * self.factor <= self.limit:
            self._lowered *= self.factor
            scale_learning_rate(trainer, 1 / self.factor)
            rank_zero_info(f"EntropyBounds divides the learning rate by {self._lowered:g} because of task {name!r}.")
        elif self.action == "stop" and first:
            trainer.should_stop = True
            rank_zero_info(f"EntropyBounds stops the training because of task {name!r}.")

    def _rescale(self, name: str, factor: float) -> None:
        before = self._scale.get(name, 1.0)
        self._scale[name] = min(max(before * factor, 1 / self.limit), self.limit)
        if self._scale[name] != before:
            rank_zero_info(f"EntropyBounds scales the entropy coefficient of task {name!r} by {self._scale[name]:g}.")

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # a later fit in the same process starts from the configured coefficients
        if stage == "fit":
            self._set_scales(handles(pl_module), dict.fromkeys(self._scale, 1.0))

    @staticmethod
    def _set_scales(run: RunHandles, scales: dict[str, float]) -> None:
        for name in scales.keys() & run.tasks.keys():
            run.tasks[name].entropy_scale = scales[name]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "consecutive": dict(self._consecutive),
            "outside": dict(self._outside),
            "observed": dict(self._observed),
            "side": dict(self._side),
            "scale": dict(self._scale),
            "lowered": self._lowered,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._consecutive = dict(state_dict["consecutive"])
        self._outside = dict(state_dict["outside"])
        self._observed = dict(state_dict["observed"])
        self._side = dict(state_dict["side"])
        self._scale = dict(state_dict["scale"])
        self._lowered = state_dict["lowered"]


def band_distance(entropy: float, band: EntropyBand) -> float:
    """Measure how far an entropy is outside its band, nats: 0 inside, positive above, negative below."""
    return max(0.0, entropy - band.high) - max(0.0, band.low - entropy)
