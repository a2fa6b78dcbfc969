"""Checkpoints at intervals of rollouts: the last few, the best one, and a link to the newest."""

import os
import time
import warnings
from copy import copy
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.callbacks.kept_groups import forget_covered, keep_groups, leave_groups
from lit_g2rpo.callbacks.logged import forget_later_points
from lit_g2rpo.callbacks.moments import training_ends, validation_follows
from lit_g2rpo.callbacks.run_folder import resume_command, run_folder
from lit_g2rpo.callbacks.saving import cause, save, use_files
from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.training.checkpoint_files import discard, point, remove_parts
from lit_g2rpo.training.records import LAST, NUMBERED
from lit_g2rpo.training.run import handles, run_of

TRIALS, PAUSE = 5, 60.0
"""Number of retries for the last checkpoint of a run, and seconds between them."""

GOES_ON = "Training goes on and tries again; make room, or it will be lost"

BEST = ("current_score", "best_k_models", "kth_best_model_path", "kth_value", "best_model_score", "best_model_path")
"""Lightning's state of the best checkpoint, which it sets before writing the file."""


class _NotSaved(Exception):
    """The best checkpoint could not be written."""


class RolloutCheckpoint(ModelCheckpoint):
    """Save every few rollouts and when training ends; keep the last checkpoints, the best one and ``last.ckpt``.

    ``last.ckpt`` is a link to the newest ``rollout=<n>-step=<m>.ckpt``. The best one by a validation metric is
    ``best-rollout=<n>.ckpt``; it does not exist until a validation is better than the one before the first step, since
    until then the starting policy is the best. If a validation follows the optimizer step, the checkpoint is saved
    after it, so a resumed run neither repeats nor misses the validation.

    If a checkpoint cannot be written, the older ones are unchanged. The failure is reported and logged as
    ``alarm/checkpoint``, training continues, and the next rollout tries again. The last one of a run is retried
    several times before it becomes an error.

    Args:
        every_rollouts: interval between checkpoints, rollouts.
        keep_last: number of checkpoints to keep.
        monitor: validation metric that decides which is best; None to keep no best one.
        mode: whether a larger (``max``) or smaller (``min``) value is better.
        dirpath: folder of the checkpoints; None for ``checkpoints`` in the run's folder.
        partial_rollouts: write finished groups of a rollout to ``partial`` in that folder immediately, so that a run
            killed inside the rollout reuses them; they are removed once a checkpoint covers the rollout.

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
        self._folder = Path()
        self._saved_step = self._tried_step = 0
        self._pending = False
        self._overdue = False
        self._kept: list[str] = []
        self.start: float | None = None
        """The monitored metric before the first step; None if there was no validation."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.dirpath = os.path.abspath(str(self.dirpath))
        # now, since the ranks agree on it, and may be gone when an error is reported
        self._folder = run_folder(trainer)
        use_files(trainer)
        # left by killed saves; nobody else writes here
        if stage == "fit" and trainer.local_rank == 0:
            remove_parts(Path(self.dirpath))

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # left by a run that was killed before its first checkpoint
        forget_later_points(trainer, -1)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._interval = self.every_rollouts * handles(pl_module).steps_per_rollout
        self._saved_step = self._tried_step = trainer.global_step
        self._pending = self._overdue = False
        forget_later_points(trainer, handles(pl_module).rollout_index)
        if self.partial_rollouts and not getattr(trainer, "fast_dev_run", False):
            keep_groups(trainer, pl_module, Path(str(self.dirpath)) / "partial")

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # inside an optimizer step, there is no state to resume from
        if step in (self._saved_step, self._tried_step) or getattr(trainer, "fast_dev_run", False):
            return
        due = step % (handles(pl_module).steps_per_rollout if self._overdue else self._interval) == 0
        if due or trainer.should_stop or training_ends(trainer):
            # a validation that follows will save, including its results
            if validation_follows(trainer, batch_idx):
                self._pending = True
            else:
                self.save_newest(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or getattr(trainer, "fast_dev_run", False):
            return
        if self.monitor is not None and self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in sorted(trainer.callback_metrics) if name.startswith("val/"))
            raise UserError(f"RolloutCheckpoint.monitor is {self.monitor!r}, which is not logged; known: {known}")
        if trainer.sanity_checking:
            self.start = None if self.monitor is None else float(trainer.callback_metrics[self.monitor])
            return
        self.filename = f"best-rollout={handles(pl_module).rollout_index:05d}"
        self._save_best(trainer, pl_module)
        if self._pending or (trainer.should_stop and trainer.global_step != self._saved_step):
            self.save_newest(trainer, pl_module)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # nothing to save: the last optimizer step was saved when it was made
        pass

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # an error before training starts should name the step that it resumes from
        self._saved_step = checkpoint["global_step"]

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if isinstance(exception, RolloutStopError) and fits and trainer.global_step != self._saved_step:
            # all ranks get here if a rollout could not be sampled or scored, and the last step is intact
            if trainer.training:
                run_of(pl_module).loader.rewind()
            self.save_newest(trainer, pl_module)
        if trainer.is_global_zero and self.last_model_path and Path(self.last_model_path).exists():
            command = resume_command(self._folder, self.last_model_path)
            # not the trainer's step, which may not be restored yet
            step = NUMBERED.search(Path(self.last_model_path).resolve().name)
            where = f"step {int(step['step'])}" if step else self.last_model_path
            exception.add_note(f"to resume after a fix, {command} continues from the checkpoint of {where}")

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self.partial_rollouts:
            leave_groups(pl_module)

    @override
    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        # it must beat the start to be the best
        if current is not None and self.start is not None:
            gain = float(current) - self.start
            if (gain if self.mode == "max" else -gain) <= 0:
                return False
        return super().check_monitor_top_k(trainer, current)

    @override
    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        # called for the best checkpoint
        if reason := save(trainer, Path(filepath), self.save_weights_only):
            raise _NotSaved(reason)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    @override
    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if trainer.local_rank != 0:
            return
        try:
            discard(Path(filepath))
        except OSError as error:
            warnings.warn(f"old checkpoint {filepath} could not be removed: {cause(error)}; it stays", stacklevel=2)

    def _save_best(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        before = {name: copy(getattr(self, name, None)) for name in BEST}
        try:
            super().on_validation_end(trainer, pl_module)
        except _NotSaved as error:
            # the previous best one remains, and its file exists
            vars(self).update(before)
            rank_zero_warn(f"the best checkpoint so far could not be written to {self.dirpath}: {error}; {GOES_ON}")

    def save_newest(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the newest checkpoint now; all ranks must call this.

        Raises:
            UserError: if training ends and the checkpoint cannot be written.
        """
        self._pending, self._tried_step = False, trainer.global_step
        # write the curves first, since points that lag behind the checkpoint would be missing after a resume
        handles(pl_module).finish_rollout()
        ends = trainer.should_stop or training_ends(trainer)
        reason = self._try_newest(trainer, pl_module)
        for trial in range(TRIALS if ends else 0):
            if not reason:
                break
            rank_zero_warn(f"the last checkpoint: {reason}; trial {trial + 1} of {TRIALS} in {PAUSE:.0f} s")
            time.sleep(PAUSE)
            reason = self._try_newest(trainer, pl_module)
        if reason and ends:
            raise UserError(f"{reason}; what was learned since {self._newest()} is lost")
        if reason:
            rank_zero_warn(f"{reason}; the newest is that of {self._newest()}. {GOES_ON}")
        if reason or self._overdue:
            handles(pl_module).send({"alarm/checkpoint": float(bool(reason))})
        self._overdue = bool(reason)

    def _try_newest(self, trainer: L.Trainer, pl_module: L.LightningModule) -> str:
        """Save, and return why it failed, the same on all ranks."""
        folder = Path(str(self.dirpath))
        name = f"rollout={handles(pl_module).rollout_index:05d}-step={trainer.global_step:06d}.ckpt"
        path, link = folder / name, folder / LAST
        before = self._kept, self.last_model_path
        # the checkpoint contains both, so they must name the new file before it is written
        self._kept = [kept for kept in self._kept if kept != str(path)] + [str(path)]
        self.last_model_path = str(link)
        if reason := save(trainer, path) or self._point(trainer, link, path):
            self._kept, self.last_model_path = before
            return f"checkpoint {path} could not be written: {reason}"
        self._saved_step = trainer.global_step
        if self.partial_rollouts:
            forget_covered(trainer, pl_module)
        while len(self._kept) > self.keep_last:
            oldest = self._kept.pop(0)
            if self._should_remove_checkpoint(trainer, oldest, str(path)):
                self._remove_checkpoint(trainer, oldest)
        return ""

    @staticmethod
    def _point(trainer: L.Trainer, link: Path, path: Path) -> str:
        reason = ""
        if trainer.local_rank == 0 and path.exists():
            try:
                point(link, path)
            except OSError as error:
                reason = cause(error)
        return Ranks(trainer).first_message(reason)

    def _newest(self) -> str:
        return f"step {self._saved_step}" if self._saved_step else "the start"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kept": list(self._kept), "start": self.start}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]
        here = Path(str(self.dirpath))
        # a run with another folder starts its own lists, since the old folder may have been moved
        if not (here / Path(state_dict["last_model_path"]).name).exists() or not state_dict["last_model_path"]:
            return

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        state = state_dict | {name: moved(state_dict[name]) for name in paths}
        super().load_state_dict(state | {"best_k_models": best, "dirpath": self.dirpath})
        self._kept = [moved(path) for path in state_dict["kept"]]
