"""Metrics that Lightning has logged, and the loggers that received them."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_g2rpo.loggers import RunLogger
from lit_g2rpo.loggers.tensorboard import drop_later
from lit_g2rpo.training.curve_file import forget_points
from lit_g2rpo.training.run import handles


def metric(trainer: L.Trainer, name: str) -> float | None:
    """Read the latest value of a metric; None if it was never logged."""
    value = trainer.callback_metrics.get(name)
    return None if value is None else float(value)


def per_task(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Select the values of ``name/<task>`` from metrics by name.

    Returns:
        Value by task, in the order of the task names.
    """
    prefix = f"{name}/"
    return {key[len(prefix) :]: float(metrics[key]) for key in sorted(metrics) if key.startswith(prefix)}


def forget_later_points(trainer: L.Trainer, rollout: int) -> None:
    """Drop the points after a rollout, which a killed run wrote and the resumed run repeats."""
    if not trainer.is_global_zero:
        return
    curve_file = handles(trainer.lightning_module).curve_file
    repeated = forget_points(curve_file, rollout) if curve_file else {}
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.forget(rollout, repeated)
        elif isinstance(logger, TensorBoardLogger):
            drop_later(logger, rollout)


def run_loggers(trainer: L.Trainer) -> list[RunLogger]:
    """List the loggers of a run that show more than numbers; empty on all ranks but the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger) and trainer.is_global_zero]
