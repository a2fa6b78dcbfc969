"""Finding the checkpoint a command line means, and the run folder that a resumed run continues in."""

import shutil
from pathlib import Path

from lit_g2rpo.errors import UserError

LAST = "last.ckpt"


def find_checkpoint(ckpt_path: str, experiment: Path, run: Path | None = None) -> Path:
    """Turn ``last``, ``best`` or a path into a checkpoint that exists.

    Args:
        experiment: folder that holds the experiment's runs, ``<save_dir>/<name>``.
        run: the one run to look in; None looks in all and takes the newest.

    Raises:
        UserError: if there is none.
    """
    if ckpt_path not in ("last", "best"):
        path = Path(ckpt_path)
        if not path.exists():
            raise UserError(f"--ckpt_path {ckpt_path}: no such file; give a checkpoint, or last for the newest one")
        return path
    folder = run or experiment
    pattern = LAST if ckpt_path == "last" else "best*.ckpt"
    found = [path for path in folder.glob(f"**/{pattern}") if path.exists()]
    if not found:
        raise UserError(
            f"--ckpt_path {ckpt_path}: no {pattern} below {folder}; leave --ckpt_path out to start a new run, "
            "or give the path of a checkpoint"
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, len(str(path)), str(path)))


def run_folder_of(path: Path, experiment: Path) -> Path | None:
    """Find the run folder of an experiment that a checkpoint or config lies in; None if it lies outside."""
    # absolute, not resolved: last.ckpt may be a link
    path, experiment = path.absolute(), experiment.absolute()
    if not path.is_relative_to(experiment) or path.parent == experiment:
        return None
    return experiment / path.relative_to(experiment).parts[0]


def version_of(run: Path) -> int | str:
    """Name a run folder as a logger does: ``version_3`` is 3, any other name is itself."""
    number = run.name.removeprefix("version_")
    return int(number) if number.isdigit() and number != run.name else run.name


def remove_new(folders: list[Path]) -> None:
    """Remove the folders made for a run that never began, and those above them that this leaves empty."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, folder.parent.parent):
            if not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()
