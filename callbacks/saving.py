"""Saving a checkpoint on all ranks: write it next to its destination, flush, rename; every rank gets any error."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException
from typing_extensions import override

from lit_g2rpo.hardware.aside import system_error
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.hardware.steps import PAUSE, Step
from lit_g2rpo.training.checkpoint_files import part_of, read, remove, seal


class FileIO(TorchCheckpointIO):
    """Write a checkpoint directly to disk; Lightning's own goes through memory and ``TMPDIR``."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with open(path, "wb") as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        with Step(f"reading {Path(path).name}"):
            return read(Path(path))


def use_files(trainer: L.Trainer) -> None:
    """Use `FileIO` for single-file checkpoints, unless something else was requested."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = FileIO()


def save(trainer: L.Trainer, path: Path, weights_only: bool = False) -> str:
    """Write a checkpoint, file or folder; all ranks must call this.

    Args:
        path: path of the checkpoint, the same on all ranks, which is unchanged until the new one is complete.
        weights_only: save only the weights.

    Returns:
        Why it could not be written, the same on all ranks; empty on success.
    """
    reason, ranks = "", Ranks(trainer)
    try:
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
        with Step(f"writing {path.name}", after=PAUSE):
            trainer.save_checkpoint(part_of(path), weights_only)
    except (OSError, RuntimeError, CheckpointException) as error:
        reason = cause(error)
        # the others may be waiting for this rank, which has not got this far
        trainer.strategy.barrier()
    reason = ranks.first_message(reason)
    # a machine with its own disk has its own part
    for turn in (trainer.global_rank == 0, trainer.local_rank == 0):
        if not reason and turn and part_of(path).exists():
            reason = _sealed(path)
        reason = ranks.first_message(reason)
    if not reason and trainer.is_global_zero and not path.exists():
        reason = f"{type(trainer.strategy).__name__} has written nothing"
    reason = ranks.first_message(reason)
    if reason and trainer.local_rank == 0:
        # free space for the next save; if the disk fails here too, the error is already reported
        with suppress(OSError):
            remove(part_of(path))
    return reason


def cause(error: BaseException) -> str:
    """Describe briefly why a save failed."""
    if (found := system_error(error)) is not None and found.errno:
        return os.strerror(found.errno)
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sealed(path: Path) -> str:
    try:
        seal(path)
    except OSError as error:
        return cause(error)
    return ""
