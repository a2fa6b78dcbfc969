"""Checkpoints counted in rollouts: the last few, the best one, and a link to the newest."""

import math
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_g2rpo.callbacks.kept_groups import forget_covered, keep_groups, leave_groups
from lit_g2rpo.callbacks.logged import forget_later_points
from lit_g2rpo.callbacks.run_folder import resume_command, run_folder
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.run import handles


class RolloutCheckpoint(ModelCheckpoint):
    """Save every few rollouts and when training ends, keep the last ones, the best one and ``last.ckpt``.

    ``last.ckpt`` is a link to the newest ``rollout=<n>-step=<m>.ckpt``; the best one by a validation metric is
    ``best-rollout=<n>.ckpt``. Where a validation follows the optimizer step, the checkpoint is saved after it, so
    that a resumed run neither repeats nor misses the validation.

    Args:
        every_rollouts: interval between checkpoints, rollouts.
        keep_last: how many of them to keep.
        monitor: validation metric that decides which is best; None keeps no best one.
        mode: whether a larger (``max``) or smaller (``min``) value is better.
        dirpath: folder of the checkpoints; None for ``checkpoints`` in the folder of the run.
        partial_rollouts: write finished groups of a rollout to ``partial`` in that folder as they come, so that a run
            that is killed inside it goes on with them; they are removed once a checkpoint holds the rollout.

    Raises:
        UserError: if an argument is out of range, or a validation does not log ``monitor``.
    """

    def __init__(
        self,
        every_rollouts: int = 10,
        keep_last: int = 2,
        monitor: str | None = "val/accuracy",
        mode: Literal["min", "max"] = "max",
        dirpath: str | None = None,
        partial_rollouts: bool = False,
    ) -> None:
        if every_rollouts < 1:
            raise UserError(f"RolloutCheckpoint.every_rollouts is {every_rollouts}; it must be at least 1")
        if keep_last < 1:
            raise UserError(f"RolloutCheckpoint.keep_last is {keep_last}; it must be at least 1")
        if mode not in ("min", "max"):
            raise UserError(f"RolloutCheckpoint.mode is {mode!r}; it must be 'min' or 'max'")
        super().__init__(
            dirpath=dirpath,
            monitor=monitor,
            mode=mode,
            save_top_k=0 if monitor is None else 1,
            every_n_epochs=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.every_rollouts = every_rollouts
        self.keep_last = keep_last
        self.partial_rollouts = partial_rollouts
        self._interval = 0
        self._saved_step = 0
        self._pending = False
        self._kept: list[str] = []

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._interval = self.every_rollouts * handles(pl_module).steps_per_rollout
        self._saved_step = trainer.global_step
        self._pending = False
        if trainer.global_step:
            forget_later_points(trainer, handles(pl_module).rollout_index)
        if self.partial_rollouts and not getattr(trainer, "fast_dev_run", False):
            keep_groups(trainer, pl_module, Path(str(self.dirpath)) / "partial")

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._saved_step or getattr(trainer, "fast_dev_run", False):
            return
        if step % self._interval == 0 or trainer.should_stop or training_ends(trainer):
            # a validation that follows saves by itself, with what it found
            if validation_follows(trainer, batch_idx):
                self._pending = True
            else:
                self._save_newest(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or getattr(trainer, "fast_dev_run", False):
            return
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in sorted(trainer.callback_metrics) if name.startswith("val/"))
            raise UserError(f"RolloutCheckpoint.monitor is {self.monitor!r}, which is not logged; known: {known}")
        self.filename = f"best-rollout={handles(pl_module).rollout_index:05d}"
        super().on_validation_end(trainer, pl_module)
        if self._pending or (trainer.should_stop and trainer.global_step != self._saved_step):
            self._save_newest(trainer, pl_module)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # nothing more to save: the last optimizer step was saved when it was made
        pass

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero and self.last_model_path and Path(self.last_model_path).exists():
            command = resume_command(run_folder(trainer), self.last_model_path)
            exception.add_note(f"once mended, {command} continues from the checkpoint of step {self._saved_step}")

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self.partial_rollouts:
            leave_groups(pl_module)

    def _save_newest(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pending = False
        self._saved_step = trainer.global_step
        # the curves first: what the checkpoint is ahead of them would be missing after a resume
        handles(pl_module).finish_rollout()
        name = f"rollout={handles(pl_module).rollout_index:05d}-step={trainer.global_step:06d}.ckpt"
        path = str(Path(str(self.dirpath)) / name)
        self.last_model_path = str(Path(str(self.dirpath)) / "last.ckpt")
        # the list is part of the checkpoint, so it names the new file before that is written
        self._kept = [kept for kept in self._kept if kept != path] + [path]
        trainer.save_checkpoint(path)
        self._link_checkpoint(trainer, path, self.last_model_path)
        if self.partial_rollouts:
            forget_covered(trainer, pl_module)
        while len(self._kept) > self.keep_last:
            oldest = self._kept.pop(0)
            if self._should_remove_checkpoint(trainer, oldest, path):
                self._remove_checkpoint(trainer, oldest)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kept": list(self._kept)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # a run that writes to another folder starts lists of its own
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
            self._kept = list(state_dict["kept"])


def training_ends(trainer: L.Trainer) -> bool:
    """Tell whether the optimizer step just made is the last one of the training."""
    if trainer.max_steps is not None and 0 <= trainer.max_steps <= trainer.global_step:
        return True
    last_epoch = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return last_epoch and trainer.is_last_batch


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Tell inside ``on_train_batch_end`` whether a validation comes right after this training batch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    interval = trainer.val_check_batch
    if trainer.should_stop or interval is None or math.isinf(interval):
        return trainer.should_stop or trainer.is_last_batch
    done = trainer.fit_loop.total_batch_idx if every is None else batch_idx
    return bool((done + 1) % interval == 0)
