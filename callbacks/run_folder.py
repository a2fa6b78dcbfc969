"""Where the files of a run lie, and how to continue it from there."""

from pathlib import Path

import lightning.pytorch as L

from lit_g2rpo.training.records import records


def run_folder(trainer: L.Trainer) -> Path:
    """Find the folder of the run's files; to be called on every rank, since the ranks agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def resume_command(folder: Path, checkpoint: str) -> str:
    """Spell the command that continues a run.

    Args:
        folder: folder of the run, which holds its configuration if it was started from the command line.
        checkpoint: path of the newest checkpoint, ``last.ckpt``.
    """
    own = records(folder) and Path(checkpoint).absolute().is_relative_to(folder.absolute())
    return f"python -m lit_g2rpo fit --run {folder}" if own else f"python -m lit_g2rpo fit --ckpt_path {checkpoint}"
