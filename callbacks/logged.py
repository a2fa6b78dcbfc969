"""Metrics that Lightning has logged, and the TensorBoard writer behind its logger."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger


def metric(trainer: L.Trainer, name: str) -> float | None:
    """Read the latest value of a metric; None if it was never logged."""
    value = trainer.callback_metrics.get(name)
    return None if value is None else float(value)


def per_task(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Pick the values of ``name/<task>`` out of metrics by name.

    Returns:
        Value by task, in the order of the task names.
    """
    prefix = f"{name}/"
    return {key[len(prefix) :]: float(metrics[key]) for key in sorted(metrics) if key.startswith(prefix)}


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """Find the TensorBoard writer of a run, which has no types; None if there is none."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None
