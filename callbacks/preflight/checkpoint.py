"""The part of the pre-flight check that writes: a checkpoint, and room for those that the run keeps."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.memory_trial import missing_optimizer_bytes
from lit_g2rpo.training.run import Run

NAME = "preflight.ckpt"


def trial_path(trainer: L.Trainer) -> Path:
    """Name the checkpoint that is written on trial, beside those of the run; the ranks agree on the folder."""
    # Lightning's own type of these callbacks knows no folder
    keeper: Any = trainer.checkpoint_callbacks[0]
    return Path(str(keeper.dirpath)) / NAME


def check_room(run: Run, path: Path) -> str:
    """Refuse with a ``UserError`` to write where the weights alone would not fit."""
    # DeepSpeed leaves a sharded weight empty and notes its size
    weights = sum(
        getattr(p, "ds_numel", p.numel()) * p.element_size() for p in run.policy.parameters() if p.requires_grad
    )
    _require(path.parent, weights, f"a checkpoint needs {_size(weights)}")
    return ""


def check_checkpoint(run: Run, path: Path) -> str:
    """Write a checkpoint and read it back; all ranks write, the first one reads and says sizes.

    Raises:
        UserError: if it cannot be written, differs from what was written, or the run's checkpoints would not fit.
    """
    trainer = run.trainer
    try:
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(path)
    except (OSError, RuntimeError) as error:
        # only the first rank writes where weights are whole, and the others wait for it here
        trainer.strategy.barrier()
        raise UserError(f"cannot write {path}: {error}; give another folder, or make room") from error
    if not trainer.is_global_zero:
        return ""
    size = bytes_of(path) + (0 if _read(path, run) else missing_optimizer_bytes(run))
    count = sum(kept(callback) for callback in trainer.checkpoint_callbacks)
    present = sum(bytes_of(file) for file in path.parent.glob("*.ckpt") if not file.is_symlink())
    said = f"{count} checkpoints of {_size(size)}"
    _require(path.parent, count * size - present, f"the run needs {said}")
    return f"written and read; {said} fit into {path.parent}"


def kept(callback: Checkpoint) -> int:
    """Count the checkpoints that a callback keeps at a time, the one being written included."""
    best = callback.save_top_k if isinstance(callback, ModelCheckpoint) else 1
    newest = callback.keep_last if isinstance(callback, RolloutCheckpoint) else 0
    return max(best, 0) + newest + 1


def bytes_of(path: Path) -> int:
    """Add up the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(path: Path) -> None:
    """Remove a checkpoint, whether file or folder, if it is there, and its folder if that is left empty."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _read(path: Path, run: Run) -> bool:
    """Compare weights with what was written, and say whether the state of an optimizer is among it."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                with file.open("rb") as opened:
                    while opened.read(2**24):
                        pass
        return False
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    saved = checkpoint["state_dict"]
    for name, weight in run.policy.named_parameters():
        # a frozen weight may be left out, and one that is split over ranks is not compared
        if weight.requires_grad and not hasattr(weight, "to_local"):
            read = saved.get(f"policy.{name}")
            if read is None or not torch.equal(read, weight.detach().cpu()):
                raise UserError(f"{path} was written, but {name} reads back differently; check the disk")
    return any(state["state"] for state in checkpoint["optimizer_states"])


def _require(folder: Path, needed: int, what: str) -> None:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what}, but {folder} has {_size(free)} free; make room, keep fewer "
            "(RolloutCheckpoint.keep_last), or give it another dirpath"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
