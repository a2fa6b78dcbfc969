"""Training curves: one point per rollout, with only what was measured in that rollout."""

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

    Lightning's own logging repeats the last value of a metric that a rollout lacks, and sends a step's metrics after
    its checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rollout_index = 0
        self.point: dict[str, Any] = {}
        self.curve_file: Path | None = None
        """File where the first rank keeps the points, whatever the loggers; None to keep none."""
        self._curve_aside = Aside(CURVES)

    @override
    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Add a value to the current point, and pass it on to Lightning's callbacks."""
        self.point[name] = value.detach() if isinstance(value, Tensor) else value
        # on the host: Lightning would sum numbers on the device, in a graph that depends on the metrics
        value = value if isinstance(value, Tensor) else torch.tensor(float(value))
        super().log(name, value, *args, **kwargs | {"logger": False})

    def log_result(self, values: dict[str, float]) -> None:
        """Log the results of a validation or test outside of training, which Lightning also returns to its caller."""
        # Lightning uses the value called "step" as the position on the axis
        for name, value in (values | {"step": float(self.rollout_index)}).items():
            super().log(name, torch.tensor(value))

    def write_point(self) -> None:
        """Send the current point to the loggers and the run's own file, and start a new one."""
        values, self.point = {name: float(value) for name, value in self.point.items()}, {}
        self.send(values)

    def send(self, values: dict[str, float]) -> None:
        """Send values of the current rollout to the loggers and the run's own file immediately."""
        if self.curve_file is not None:
            with self._curve_aside.guard():
                append_point(self.curve_file, self.rollout_index, values)
        for logger in self.loggers:
            logger.log_metrics(values, step=self.rollout_index)
            logger.save()
