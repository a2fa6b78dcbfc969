"""The part of the pre-flight check that writes a checkpoint, and checks the disk space for those that the run keeps."""

import os
import shutil
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.run_folder import shown
from lit_g2rpo.callbacks.saving import save, use_files
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import keeps_masters
from lit_g2rpo.training.checkpoint_files import discard, read, verify
from lit_g2rpo.training.memory_trial import state_bytes
from lit_g2rpo.training.run import Run

NAME = "preflight.ckpt"


def folders(trainer: L.Trainer) -> dict[Path, int]:
    """Find the folders that checkpoints are written to, and the most that each will hold; the ranks agree on them."""
    counts: dict[Path, int] = {}
    for callback in trainer.checkpoint_callbacks:
        # Lightning's own type of these callbacks has no folder
        folder = Path(os.path.abspath(str(getattr(callback, "dirpath", None) or trainer.default_root_dir)))
        counts[folder] = counts.get(folder, 0) + kept(callback)
    return counts


def check_room(run: Run, folder: Path) -> str:
    """Raise a ``UserError`` if weights and optimizer state would not fit in a folder."""
    weights, state = _bytes_needed(run)
    _require(folder, weights + state, f"a checkpoint needs {size_of(weights)}, and {size_of(state)} for the optimizer")
    return ""


def check_checkpoint(run: Run, folder: Path, count: int) -> str:
    """Write a checkpoint and read it back; all ranks write, and the first one reads it and reports sizes.

    Args:
        folder: the folder of the run's checkpoints.
        count: number of checkpoints that it will hold.

    Raises:
        UserError: if it cannot be written, reads back differently, or the run's checkpoints would not fit.
    """
    trainer, path = run.trainer, folder / NAME
    use_files(trainer)
    if reason := save(trainer, path):
        raise UserError(f"cannot write {path}: {reason}; give RolloutCheckpoint another dirpath, or make room")
    if not trainer.is_global_zero:
        return ""
    if wrong := verify(path):
        raise UserError(f"{path} was written, but does not read: {wrong}; check the disk")
    weights, state = _bytes_needed(run)
    if path.is_dir():
        size = max(bytes_of(path), weights + state)
    else:
        size = bytes_of(path) + (0 if _read(path, run) else state)
    present = sum(bytes_of(file) for file in folder.glob("*.ckpt") if not file.is_symlink())
    said = f"{count} checkpoints of {size_of(size)}"
    _require(folder, count * size - present, f"the run needs {said}")
    return f"written and read; {said} fit into {shown(folder)}"


def kept(callback: Checkpoint) -> int:
    """Count the checkpoints that a callback keeps at a time, including the one being written."""
    best = callback.save_top_k if isinstance(callback, ModelCheckpoint) else 1
    newest = callback.keep_last if isinstance(callback, RolloutCheckpoint) else 0
    return max(best, 0) + newest + 1


def bytes_of(path: Path) -> int:
    """Compute the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(path: Path) -> None:
    """Remove a checkpoint and its partial file, if they exist, and its folder if that is then empty."""
    if path.parent.is_dir():
        discard(path)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def _read(path: Path, run: Run) -> bool:
    """Compare weights with what was written, and return whether it includes optimizer state."""
    checkpoint = read(path)
    saved = checkpoint["state_dict"]
    for name, weight in run.policy.named_parameters():
        # frozen weights may be left out, and weights split over ranks are not compared
        if weight.requires_grad and not hasattr(weight, "to_local"):
            found = saved.get(f"policy.{name}")
            if found is None or not torch.equal(found, weight.detach().cpu()):
                raise UserError(f"{path} was written, but {name} reads back differently; check the disk")
    return any(state["state"] for state in checkpoint["optimizer_states"])


def _bytes_needed(run: Run) -> tuple[int, int]:
    """Compute the size of a checkpoint's weights, and of optimizer state after the first step, over all ranks."""
    weights, counts = 0, dict[torch.dtype, int]()
    for parameter in run.policy.parameters():
        if parameter.requires_grad:
            # DeepSpeed leaves a sharded weight empty and stores its size
            count = getattr(parameter, "ds_numel", parameter.numel())
            weights += count * parameter.element_size()
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + count
    masters = keeps_masters(run.trainer.strategy)
    state = sum(
        count * (4 + state_bytes(run.optimizer, torch.float32, run.device))
        if masters
        else count * state_bytes(run.optimizer, dtype, run.device)
        for dtype, count in counts.items()
    )
    return weights, int(state)


def _require(folder: Path, needed: int, what: str) -> None:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what}, but {folder} has {size_of(free)} free; make room, keep fewer "
            "(RolloutCheckpoint.keep_last), or give it another dirpath"
        )


def size_of(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
