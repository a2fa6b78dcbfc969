"""Checks of Lightning's trainer keys against this machine and the run's schedule."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import StrategyRegistry

from lit_g2rpo.cli import meant
from lit_g2rpo.cli.packaged import YAML
from lit_g2rpo.errors import UserError

ON_CPU = "add --trainer.accelerator cpu --trainer.devices 2 to try it with two processes on the CPU"
OWN = "lit_g2rpo.callbacks."


def check_machine(trainer: Namespace) -> None:
    """Refuse devices, precisions and strategies that do not exist.

    Raises:
        UserError: if one is requested.
    """
    accelerator, devices, precision = trainer.accelerator, trainer.devices, str(trainer.precision)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and devices != "auto" and not _positive(devices):
        raise UserError(f"trainer.devices is {devices}; on the CPU give the number of processes, 1 or more")
    if accelerator in ("gpu", "cuda") and (count := torch.cuda.device_count()):
        asked = max(devices, default=0) + 1 if isinstance(devices, list) else int(devices) if _positive(devices) else 0
        if asked > count:
            raise UserError(
                f"trainer.devices is {devices}, but this machine has {count} GPUs; give 1 to {count}, or auto"
            )
    if on_cpu and precision.startswith("16") and precision != "16":
        raise UserError(
            f"trainer.precision is {precision}, which needs a GPU; on the CPU give bf16{precision[2:]} or 32-true"
        )
    if (nodes := trainer.get("num_nodes", 1)) > 1 and not (trainer.get("plugins") or _knows_machines()):
        raise UserError(
            f"trainer.num_nodes is {nodes}, but nothing says where the other machines are; start with torchrun or "
            "srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each of them"
        )
    if (folder := trainer.get("default_root_dir")) and _places_runs(trainer.get("logger")):
        raise UserError(
            f"trainer.default_root_dir is {folder}, but a run is stored in the folder of its logger; set that: "
            f"--trainer.logger.save_dir {folder}"
        )
    strategy = trainer.strategy
    if isinstance(strategy, str) and strategy.endswith(YAML):
        raise UserError(
            f"trainer.strategy is {strategy}, a file that fills trainer; give it there: --trainer {strategy}"
        )
    if isinstance(strategy, str) and strategy not in (known := ["auto", *StrategyRegistry.available_strategies()]):
        near = meant.near(strategy, [name for name in known if not name.startswith("deepspeed")])
        hint = f"did you mean {near}? Else" if near else "give auto, ddp or"
        raise UserError(
            f"trainer.strategy is {strategy}; {hint} a file: --trainer configs/strategy/deepspeed_zero1.yaml"
        )


def check_length(trainer: Namespace) -> None:
    """Refuse trainer keys that would end a run or reduce its data against the schedule, or have no effect.

    Raises:
        UserError: if one is set.
    """
    for key, neutral, owner in (
        ("max_epochs", (None, -1), "the length of a run is schedule.rollouts"),
        ("min_epochs", (None, 0), "the length of a run is schedule.rollouts"),
        ("min_steps", (None, 0), "the length of a run is schedule.rollouts"),
        ("limit_train_batches", (None, 1.0), "the length of a run is schedule.rollouts"),
        ("overfit_batches", (0.0,), "the length of a run is schedule.rollouts"),
        ("check_val_every_n_epoch", (None,), "schedule.validate_every says how often a run is validated"),
        ("reload_dataloaders_every_n_epochs", (0,), "the loader of a run resumes where it was"),
    ):
        value = trainer.get(key)
        if value not in neutral:
            raise UserError(f"trainer.{key} is {value}; leave it out: {owner}")
    if (checked := trainer.get("num_sanity_val_steps")) is not None and checked < -1:
        raise UserError(f"trainer.num_sanity_val_steps is {checked}; give -1 for a full validation first, 0 for none")
    clip = trainer.get("gradient_clip_val") or 0
    if not 0 <= clip < float("inf"):
        raise UserError(f"trainer.gradient_clip_val is {clip}; it must be 0, which clips nothing, or more")


def check_callbacks(trainer: Namespace) -> bool:
    """Refuse duplicate callbacks of this package.

    Returns:
        True if checkpoints are kept for resuming.

    Raises:
        UserError: if there is a duplicate.
    """
    found: Any = trainer.callbacks or []
    names = [part.class_path for part in (found if isinstance(found, list) else [found])]
    for name, count in Counter(names).items():
        if count > 1 and name.startswith(OWN):
            raise UserError(
                f"trainer.callbacks has {name} {count} times; change the arguments of the recipe's own instead"
            )
    return any(name.endswith(".RolloutCheckpoint") for name in names)


def check_name(name: str) -> None:
    """Refuse a name of the experiment that is not a folder below the one for runs.

    Raises:
        UserError: if it is not.
    """
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"--name is {name!r}; give the name of a folder, such as g2rpo, for its runs")


def _positive(devices: Any) -> bool:
    return str(devices).isdecimal() and int(devices) > 0


def _knows_machines() -> bool:
    environments = (LSFEnvironment, MPIEnvironment, SLURMEnvironment, TorchElasticEnvironment)
    return "MASTER_ADDR" in os.environ or any(environment.detect() for environment in environments)


def _places_runs(logger: Any) -> bool:
    arguments = logger.get("init_args", {}) if isinstance(logger, Namespace) else {}
    return "save_dir" in arguments and "version" in arguments
