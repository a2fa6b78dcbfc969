"""Where the files of a run lie, and how to continue it from there."""

from pathlib import Path

import lightning.pytorch as L


def run_folder(trainer: L.Trainer) -> Path:
    """Find the folder of the run's files; to be called on every rank, since the ranks agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def resume_command(folder: Path, checkpoint: str) -> str:
    """Spell the command that continues a run.

    Args:
        folder: folder of the run; its ``config.yaml`` is used if there is one.
        checkpoint: path of the newest checkpoint, ``last.ckpt``.
    """
    config = folder / "config.yaml"
    if config.exists():
        return f"python -m lit_g2rpo fit --config {config} --ckpt_path last"
    return f"python -m lit_g2rpo fit --ckpt_path {checkpoint}"
