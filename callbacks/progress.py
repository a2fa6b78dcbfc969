"""Progress in rollouts: a bar on a terminal, a line now and then in a log file."""

import math
import sys
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_g2rpo.callbacks.logged import metric
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.run import RunHandles, handles

FIGURES = {"reward": ".3f", "accuracy": ".3f", "length": ".0f"}


class RolloutProgress(Observer, ProgressBar):
    """Show how many rollouts are done, their reward, accuracy and completion length, and the time left.

    Validations during training take one line each. Where the output is no terminal, there is no bar but one line every
    few rollouts.

    Args:
        every_rollouts: interval between lines where the output is no terminal, rollouts.

    Raises:
        UserError: if ``every_rollouts`` is below 1.
    """

    def __init__(self, every_rollouts: int = 10) -> None:
        if every_rollouts < 1:
            raise UserError(f"RolloutProgress.every_rollouts is {every_rollouts}; it must be at least 1")
        super().__init__()
        self.every_rollouts = every_rollouts
        self._enabled = True
        self._bar: Any = None
        self._done = 0
        self._first = 0
        self._total: int | None = None
        self._started = 0.0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        text = kwargs.get("sep", " ").join(str(value) for value in args)
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif self._enabled:
            print(text, flush=True)

    def _open(self, what: str, unit: str, total: float | None, done: int = 0) -> None:
        self._close()
        if self._enabled and sys.stdout.isatty():
            self._bar = Tqdm(
                desc=what,
                unit=unit,
                total=None if total is None or math.isinf(total) else int(total),
                initial=done,
                dynamic_ncols=True,
                file=sys.stdout,
                smoothing=0.1,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| [{elapsed}<{remaining}{postfix}]",
            )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        self._started = time.monotonic()
        self._total = total_rollouts(run)
        # a resumed run does not begin at zero
        self._done = self._first = trainer.global_step // run.steps_per_rollout
        self._open("rollout", "rollout", self._total, self._done)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step // handles(pl_module).steps_per_rollout
        if done == self._done or not self._enabled:
            return
        self._done = done
        figures = {name: metric(trainer, f"rollout/{name}") for name in FIGURES}
        text = {name: format(value, FIGURES[name]) for name, value in figures.items() if value is not None}
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix(text)
        elif done % self.every_rollouts == 0 or done == self._first + 1 or done == self._total:
            elapsed = time.monotonic() - self._started
            pace = elapsed / (done - self._first)
            parts = [f"rollout {done}" + (f"/{self._total}" if self._total else "")]
            parts += [f"{name} {value}" for name, value in text.items()]
            parts += [f"{pace:.1f} s/rollout", f"elapsed {clock(elapsed)}"]
            if self._total:
                parts.append(f"left {clock(pace * (self._total - done))}")
            self.print("  ".join(parts))

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open("validate", "batch", sum(trainer.num_val_batches))
        elif trainer.sanity_checking:
            self._open("first validation", "batch", sum(trainer.num_sanity_val_batches))
        elif self._bar is not None:
            self._bar.set_description_str("validating")

    @override
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._advance(trainer.state.fn == TrainerFn.VALIDATING or trainer.sanity_checking)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING or trainer.sanity_checking:
            self._close()
        elif self._bar is not None:
            self._bar.set_description_str("rollout")
        history = handles(pl_module).validation_history
        if trainer.state.fn == TrainerFn.FITTING and history:
            latest = history[-1]
            self.print(f"validation after {latest['rollout']:.0f} rollouts: accuracy {latest['val/accuracy']:.3f}")

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open("test", "batch", sum(trainer.num_test_batches))

    @override
    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._advance()

    @override
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open("predict", "batch", sum(trainer.num_predict_batches))

    @override
    def on_predict_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._advance()

    @override
    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def _advance(self, wanted: bool = True) -> None:
        if wanted and self._bar is not None:
            self._bar.update(1)


def total_rollouts(run: RunHandles) -> int | None:
    """Find how many rollouts the whole training has; None if it has no end."""
    trainer, limits = run.trainer, []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        limits.append(math.ceil(trainer.max_steps / run.steps_per_rollout))
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and not math.isinf(trainer.num_training_batches):
        limits.append(trainer.max_epochs * int(trainer.num_training_batches) // run.microbatches_per_rollout)
    return min(limits, default=None)


def clock(seconds: float) -> str:
    """Write a duration as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
