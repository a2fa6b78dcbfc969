"""Exit cleanly on Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: save, stop every rank at the same step, say how to resume."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.rescue import rescue
from lit_g2rpo.callbacks.run_folder import resume_command, run_folder
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.collectives import PROGRESS
from lit_g2rpo.hardware.rank_watch import RankWatch, end_at_once
from lit_g2rpo.training.records import LAST
from lit_g2rpo.training.run import handles

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals from a person, a scheduler, a closing terminal, and a scheduler's advance warning."""

SAME_SIGNAL = 0.2
"""Seconds within which a second signal counts as the first one, sent to both a process and its group."""


class GracefulInterrupt(L.Callback):
    """Turn a signal of `SIGNALS` into a stop at the next optimizer step, or at the end of a running validation.

    The checkpoint is written by the run's ``RolloutCheckpoint``, which saves whenever training stops, or if there is
    none, by this callback, to ``checkpoints`` in the run's folder. A validation that would follow is skipped. A second
    signal ends the run immediately, except for SIGHUP, which a closing terminal may send twice. With several ranks, a
    signal to any of them stops all of them at the same step. Outside of training, there is nothing to save, so every
    signal ends the run immediately; list this callback before those that work there. A run started with ``nohup``
    ignores SIGHUP.

    With several ranks, a thread reports which one the others wait for. If a rank is stopped or gone, the thread saves
    what can be saved without it. A second signal then ends the ranks, which cannot handle signals while they wait.

    Args:
        rank_seconds: how long to wait for a rank before reporting it, seconds.
    """

    def __init__(self, rank_seconds: float = 60.0) -> None:
        if rank_seconds <= 0:
            raise UserError(f"GracefulInterrupt.rank_seconds is {rank_seconds}; give a number above 0")
        self.rank_seconds = rank_seconds
        self._watch: RankWatch | None = None
        self._sampling = False
        self.interrupted = False
        self._requested = False
        self._requested_at = 0.0
        self._seen_step = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._limit_val_batches: int | float | None = None
        self._message = ""

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # not earlier, since the trainer has only now registered its own handlers
        self.interrupted = self._requested = False
        self._seen_step = trainer.global_step
        for number in SIGNALS:
            self._take(number, self._on_signal)
        if trainer.world_size > 1 and dist.is_initialized():
            self._watch = RankWatch(
                trainer.global_rank,
                trainer.world_size,
                # a separate connection, since calls on the same one wait for each other
                dist.distributed_c10d._get_default_store().clone(),  # type: ignore[attr-defined]
                self.rank_seconds,
                lambda: rescue(trainer, pl_module, self._sampling),
                lambda code: end_at_once(trainer, code),
            )

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._sampling = batch[1] == 0
        PROGRESS.advance()

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        self._sampling = False
        PROGRESS.advance()

    @override
    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        PROGRESS.advance()

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # all signals act like Ctrl-C: the trainer's own SIGTERM handler starts a collective, which hangs if ranks are
        # at different places, and then continues with the validation
        for number in SIGNALS:
            self._take(number, signal.default_int_handler)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_sanity_check_start(trainer, pl_module)

    on_test_start = on_predict_start = on_sanity_check_start

    def _take(self, number: signal.Signals, handler: Callable[[int, FrameType | None], Any]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            return
        self._previous.setdefault(number, signal.signal(number, handler))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._watch is not None:
            self._watch.heard()
        if not self._requested:
            self._requested, self._requested_at = True, time.monotonic()
            name = signal.Signals(number).name
            # the signal may have interrupted print(), which is not reentrant; the terminal may be gone
            with suppress(OSError):
                os.write(2, f"\n{name}: saving at the next optimizer step, then leaving (Ctrl-C aborts now)\n".encode())
        elif number == signal.SIGINT or (
            number != signal.SIGHUP and time.monotonic() - self._requested_at > SAME_SIGNAL
        ):
            self._restore_handlers()
            raise KeyboardInterrupt

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        PROGRESS.advance()
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self._stop_if_any_rank_asked(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # also here, to avoid sampling another rollout first
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_if_any_rank_asked(trainer, pl_module)

    def _stop_if_any_rank_asked(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.interrupted or not trainer.strategy.reduce_boolean_decision(self._requested, all=False):
            return
        self.interrupted = True
        trainer.should_stop = True
        # the trainer ignores should_stop until these are met
        trainer.fit_loop.min_epochs = 0
        trainer.fit_loop.epoch_loop.min_steps = None
        # it also validates before it stops, unless there are no validation batches
        self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0
        folder = run_folder(trainer)
        keeper = next(
            (keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, RolloutCheckpoint)), None
        )
        if keeper is None:
            # for this save only, since the trainer does not know this callback
            keeper = RolloutCheckpoint(monitor=None, dirpath=str(folder / "checkpoints"))
            keeper.setup(trainer, pl_module, "fit")
            keeper.save_newest(trainer, pl_module)
        self._message = (
            f"Stopped after optimizer step {trainer.global_step} (rollout {handles(pl_module).rollout_index}). "
            f"Continue with:\n  {resume_command(folder, str(Path(str(keeper.dirpath)) / LAST))}"
        )

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore_handlers()
        if self._limit_val_batches is not None:
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None
        if self._message:
            _print(self._message)
            self._message = ""

    def _restore_handlers(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)


@rank_zero_only
def _print(message: str) -> None:
    print(message, flush=True)
