"""Curves of what was measured: one point per rollout, with what that rollout had."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.hardware.aside import Aside
from lit_g2rpo.training.curve_file import CURVES, append_point


class CurvesModule(L.LightningModule):
    """Collect what is logged into points, and send each point to the loggers once, counted in rollouts.

    Lightning's own way to the loggers repeats the last value of a metric that a rollout lacks, and sends a step's
    metrics after its checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rollout_index = 0
        self.point: dict[str, Any] = {}
        self.curve_file: Path | None = None
        """Where the first rank keeps the points whatever the loggers are; None to keep none."""
        self._curve_aside = Aside(CURVES)

    @override
    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Add a value to the present point, and tell Lightning's callbacks of it."""
        self.point[name] = value.detach() if isinstance(value, Tensor) else value
        # on the host: Lightning would add numbers up on the device, in a graph that differs with the metrics
        value = value if isinstance(value, Tensor) else torch.tensor(float(value))
        super().log(name, value, *args, **kwargs | {"logger": False})

    def log_result(self, values: dict[str, float]) -> None:
        """Log the outcome of a validation or test outside of training, which Lightning hands to its caller as well."""
        # Lightning takes the value of this name for the place on the axis
        for name, value in (values | {"step": float(self.rollout_index)}).items():
            super().log(name, torch.tensor(value))

    def write_point(self) -> None:
        """Send the present point to the loggers and the run's own file, and begin another."""
        values, self.point = {name: float(value) for name, value in self.point.items()}, {}
        self.send(values)

    def send(self, values: dict[str, float]) -> None:
        """Send values of the present rollout to the loggers and the run's own file at once."""
        if self.curve_file is not None:
            with self._curve_aside.guard():
                append_point(self.curve_file, self.rollout_index, values)
        for logger in self.loggers:
            logger.log_metrics(values, step=self.rollout_index)
            logger.save()
