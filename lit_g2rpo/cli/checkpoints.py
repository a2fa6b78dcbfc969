"""Finding the checkpoint that a command line refers to, and the folder of a resumed run."""

import shutil
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.training.records import LAST, NUMBERED


def find_checkpoint(ckpt_path: str, experiment: Path, run: Path | None = None) -> Path:
    """Resolve ``last``, ``best`` or a path to an intact checkpoint.

    Args:
        experiment: folder of the experiment's runs, ``<save_dir>/<name>``.
        run: the only run to look in; None to look in all runs and take the newest checkpoint.

    Returns:
        The checkpoint. If the newest of a run is broken, this is the previous one, with a warning.

    Raises:
        UserError: if there is no such checkpoint.
    """
    if ckpt_path not in ("last", "best"):
        check_exists(ckpt_path)
        path = Path(ckpt_path)
        # heavy, and not needed to find that there is none
        from lit_g2rpo.training.checkpoint_files import verify

        if wrong := verify(path):
            raise UserError(
                f"--ckpt_path {ckpt_path} is not an intact checkpoint: {wrong}; last is the newest intact one"
            )
        return path
    folder = run or experiment
    found = newest_checkpoints(folder) if ckpt_path == "last" else _newest_first(folder, "best*.ckpt")
    if not found:
        if ckpt_path == "best":
            raise UserError(
                f"--ckpt_path best: no best*.ckpt below {folder}, so no validation was better than the policy the run "
                "started from; give last, or the path of a checkpoint"
            )
        raise UserError(
            f"--ckpt_path last: no {LAST} below {folder}; leave --ckpt_path out to start a new run, or give the path "
            "of a checkpoint"
        )
    # heavy, and not needed to find that there is none
    from lightning.pytorch.utilities import rank_zero_warn

    from lit_g2rpo.training.checkpoint_files import verify

    for path in found:
        if not (wrong := verify(path)):
            return path
        rank_zero_warn(f"--ckpt_path {ckpt_path}: {path.resolve()} is not intact: {wrong}; trying the previous one")
    raise UserError(f"--ckpt_path {ckpt_path}: of {len(found)} checkpoints in {found[0].parent} none is intact")


def check_exists(ckpt_path: str) -> None:
    """Refuse a path that does not exist.

    Raises:
        UserError: if it is neither an existing path nor ``last`` or ``best``.
    """
    if ckpt_path not in ("last", "best") and not Path(ckpt_path).exists():
        raise UserError(f"--ckpt_path {ckpt_path}: no such file; give a checkpoint, or last for the newest one")


def newest_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of the run that saved last: the link to its newest, then the earlier ones."""
    # a run killed in its first save has no link yet
    everywhere = _newest_first(folder, LAST) + _newest_first(folder, "rollout=*-step=*.ckpt")
    if not everywhere:
        return []
    home = max(everywhere, key=_age).parent
    link, numbered = home / LAST, [path for path in everywhere if path.parent == home and path.name != LAST]
    numbered.sort(key=_step, reverse=True)
    if not link.exists():
        return numbered
    return [link, *(path for path in numbered if path.resolve() != link.resolve())]


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    return sorted((path for path in folder.glob(f"**/{pattern}") if path.exists()), key=_age, reverse=True)


def _age(path: Path) -> tuple[int, int, str]:
    return path.stat().st_mtime_ns, len(str(path)), str(path)


def _step(path: Path) -> int:
    name = NUMBERED.fullmatch(path.name)
    return int(name["step"]) if name else 0


def run_folder_of(path: Path, experiment: Path) -> Path | None:
    """Find the run folder that contains a checkpoint or config, in an experiment; None if it is elsewhere."""
    # absolute, not resolved: last.ckpt may be a link
    path, experiment = path.absolute(), experiment.absolute()
    if not path.is_relative_to(experiment) or path.parent == experiment:
        return None
    return experiment / path.relative_to(experiment).parts[0]


def version_of(run: Path) -> int | str:
    """Convert the name of a run folder to a logger's version: 3 for ``version_3``, otherwise the name itself."""
    number = run.name.removeprefix("version_")
    return int(number) if number.isdigit() and number != run.name else run.name


def read_state(path: Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint; tensors stay on disk.

    Args:
        path: a checkpoint file, or the folder of a sharded one.

    Raises:
        UserError: if it cannot be read, or was not written by this trainer.
    """
    # a heavy import, not needed to refuse a path
    import pickle

    import torch

    from lit_g2rpo.strategies.deepspeed_checkpoint import is_deepspeed, read_shards

    if path.is_dir() and not is_deepspeed(path) and not (path / "meta.pt").exists():
        raise UserError(f"--ckpt_path {path} is a folder; give a checkpoint in it")
    try:
        if is_deepspeed(path):
            state: Any = read_shards(path).state
        else:
            file = path / "meta.pt" if path.is_dir() else path
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"--ckpt_path {path} cannot be read: it is truncated, modified or no checkpoint; give another of the run"
        ) from error
    if not isinstance(state, dict) or "g2rpo" not in state:
        raise UserError(f"--ckpt_path {path} is not a checkpoint of this trainer (it has no rollout state)")
    return state


def remove_new(folders: list[Path]) -> None:
    """Remove the folders created for a run that never started, and parent folders that are then empty."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, folder.parent.parent):
            if not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()
