"""Progress in rollouts: a bar on a terminal, an occasional line in a log file."""

import math
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_g2rpo.callbacks.logged import metric
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.steps import PAUSE, SOON, Bar, Step, clock, on_terminal
from lit_g2rpo.training.run import RunHandles, handles

FIGURES = {"reward": ("{:.3f}", ""), "accuracy": ("{:.3f}", ""), "length": ("{:.0f}", " tokens")}
"""Metrics of a rollout to show, with their format and unit."""


class RolloutProgress(Observer, ProgressBar):
    """Show how many rollouts are done, their reward, accuracy and completion length, and the time left.

    Each validation during training prints one line. If the output is not a terminal, there is no bar, but a line every
    few rollouts, and a line per minute if a rollout, validation or test takes longer.

    Args:
        every_rollouts: interval between lines if the output is not a terminal, rollouts.

    Raises:
        UserError: if ``every_rollouts`` is below 1.
    """

    def __init__(self, every_rollouts: int = 10) -> None:
        if every_rollouts < 1:
            raise UserError(f"RolloutProgress.every_rollouts is {every_rollouts}; it must be at least 1")
        super().__init__()
        self.every_rollouts = every_rollouts
        self._enabled = True
        self._bar: Bar | None = None
        self._step: Step | None = None
        self._done = self._first = 0
        self._total: int | None = None
        self._started = self._said = 0.0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._enabled:
            print(kwargs.get("sep", " ").join(str(value) for value in args), flush=True)

    def _begin(self, what: str, total: float, unit: str, after: float = SOON) -> None:
        """Start a part of the run, inside or outside of a rollout."""
        self._end()
        if self._enabled:
            known = None if math.isinf(total) else int(total)
            self._step = Step(what, known, unit, after).start()

    def _advance(self) -> None:
        if self._step is not None:
            self._step.advance()

    def _end(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None

    def _close(self) -> None:
        self._end()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        self._started = self._said = time.monotonic()
        self._total = total_rollouts(run)
        # a resumed run does not start at zero
        self._done = self._first = trainer.global_step // run.steps_per_rollout
        self._close()
        if self._enabled and on_terminal():
            self._bar = Bar("rollout", self._total, done=self._done)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = handles(pl_module)
        microbatches = run.microbatches_per_rollout
        if batch_idx % microbatches == 0 and microbatches > 1:
            self._begin(f"learning from rollout {run.rollout_index}", microbatches, "micro-batches", PAUSE)
        self._advance()
        if (batch_idx + 1) % microbatches == 0:
            self._end()
        done = trainer.global_step // run.steps_per_rollout
        if done == self._done or not self._enabled:
            return
        self._done, now = done, time.monotonic()
        figures = {name: metric(trainer, f"rollout/{name}") for name in FIGURES}
        text = "  ".join(
            f"{name} {FIGURES[name][0].format(value)}{FIGURES[name][1]}"
            for name, value in figures.items()
            if value is not None
        )
        if self._bar is not None:
            self._bar.update(done, text, at_once=True)
        if self._bar is None or done == self._total:
            regular = done % self.every_rollouts == 0 or done in (self._first + 1, self._total)
            if regular or now - self._said >= PAUSE:
                self._said = now
                self.print(self._line(done, text, now - self._started))

    def _line(self, done: int, figures: str, elapsed: float) -> str:
        pace = elapsed / (done - self._first)
        parts = [f"rollout {done}" + (f"/{self._total}" if self._total else ""), figures]
        parts += [f"{pace:.1f} s/rollout", f"elapsed {clock(elapsed)}"]
        if self._total:
            parts.append(f"left {clock(pace * (self._total - done))}")
        return "  ".join(filter(None, parts))

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        first = trainer.sanity_checking
        batches = trainer.num_sanity_val_batches if first else trainer.num_val_batches
        self._begin("first validation" if first else "validation", sum(batches), "batches")

    @override
    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._advance()

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()
        history = handles(pl_module).validation_history
        if trainer.state.fn == TrainerFn.FITTING and history:
            latest = history[-1]
            self.print(f"validation after {latest['rollout']:.0f} rollouts: accuracy {latest['val/accuracy']:.3f}")

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin("test", sum(trainer.num_test_batches), "batches")

    @override
    def on_test_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._advance()

    @override
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin("predict", sum(trainer.num_predict_batches), "batches")

    @override
    def on_predict_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._advance()

    @override
    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()


def total_rollouts(run: RunHandles) -> int | None:
    """Return the number of rollouts in the whole training; None if it has no end."""
    trainer, limits = run.trainer, []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        limits.append(math.ceil(trainer.max_steps / run.steps_per_rollout))
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and not math.isinf(trainer.num_training_batches):
        limits.append(trainer.max_epochs * int(trainer.num_training_batches) // run.microbatches_per_rollout)
    return min(limits, default=None)
