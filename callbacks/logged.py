"""Metrics that Lightning has logged, and the TensorBoard writer behind its logger."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_g2rpo.training.curve_file import forget_points
from lit_g2rpo.training.run import handles


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


def forget_later_points(trainer: L.Trainer, rollout: int) -> None:
    """Drop the points after a rollout, which a run that was killed wrote and a resumed one repeats.

    Source: the purge_step of torch.utils.tensorboard.SummaryWriter, which is known only after its writer exists.
    """
    if not trainer.is_global_zero:
        return
    if curve_file := handles(trainer.lightning_module).curve_file:
        forget_points(curve_file, rollout)
    writer = tensorboard_writer(trainer)
    if writer is not None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        writer.file_writer.add_event(Event(step=rollout + 1, file_version="brain.Event:2"))
        writer.file_writer.add_event(Event(step=rollout + 1, session_log=start))


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """Find the TensorBoard writer of a run, which has no types; None if there is none."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None
