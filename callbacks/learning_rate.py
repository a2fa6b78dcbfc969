"""Permanently lower the learning rate of a run, whatever its schedule."""

from typing import Any

import lightning.pytorch as L

# Values from which PyTorch's schedules compute a learning rate, besides the current one.
GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def scale_learning_rate(trainer: L.Trainer, factor: float) -> None:
    """Multiply all learning rates, and the values from which schedules compute later ones.

    Optimizers and schedules keep these numbers in the checkpoint, so a resumed run continues with them.
    """
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for key in GROUP_RATES:
                if key in group:
                    group[key] = group[key] * factor
    for config in trainer.lr_scheduler_configs:
        _scale_schedule(config.scheduler, factor)


def _scale_schedule(scheduler: Any, factor: float) -> None:
    for part in getattr(scheduler, "_schedulers", ()):
        _scale_schedule(part, factor)
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
