"""A record of versions, machine and code next to the results of a run."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lit_g2rpo.callbacks.logged import run_loggers
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.callbacks.run_folder import run_folder
from lit_g2rpo.training.records import add_record
from lit_g2rpo.training.run import handles

PACKAGES = (
    "lit-g2rpo",
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "jsonargparse",
    "omegaconf",
    "numpy",
    "pillow",
    "tensorboard",
    "wandb",
    "mlflow",
    "peft",
    "deepspeed",
    "vllm",
    "torch-xla",
    "torch-neuronx",
)


class RunRecord(Observer):
    """Write ``versions.json`` to the run's folder and, as text, to the loggers that show text.

    A resumed run adds ``versions-<rollout>.json`` without overwriting anything.
    """

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # finding the folder is collective, so all ranks must call this
        self._write(trainer, run_folder(trainer), handles(pl_module).rollout_index)

    @rank_zero_only
    def _write(self, trainer: L.Trainer, folder: Path, rollout: int) -> None:
        text = json.dumps(versions(trainer), indent=2)
        add_record(folder, "versions.json", rollout, text + "\n")
        for logger in run_loggers(trainer):
            logger.show_text("run/versions", f"```json\n{text}\n```", rollout)


def versions(trainer: L.Trainer) -> dict[str, Any]:
    """Collect facts that may explain a difference between two runs."""
    device = trainer.strategy.root_device
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "ranks": trainer.world_size,
        "commit": git_commit(Path(__file__).resolve()),
        "packages": installed(PACKAGES),
    }


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Look up the versions of packages, except those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(file: Path) -> str | None:
    """Find the commit of a file's checkout; None if git does not track the file.

    Returns:
        The commit, with the suffix ``-dirty`` if any tracked file of the checkout was changed.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # an installed copy may be inside another project's folder
        git("ls-files", "--error-unmatch", file.name)
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.SubprocessError):
        return None
