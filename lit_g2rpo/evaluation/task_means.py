"""Means per task over the rows of an evaluation, across all ranks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

NAMES = ("accuracy", "format", "length", "truncated")


class TaskMeans(Metric):
    """Means of ``NAMES`` for each task.

    Args:
        tasks: names of all tasks of the run.
        **kwargs: arguments of ``torchmetrics.Metric``.

    Attributes:
        sums: sum of each of ``NAMES`` and number of rows, by task, ``[K, len(NAMES) + 1]`` float64.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, tasks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = list(tasks)
        self.add_state("sums", torch.zeros(len(self.tasks), len(NAMES) + 1, dtype=torch.float64), "sum")

    def update(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count rows.

        Args:
            rows: from ``rows.row``.
        """
        for row in rows:
            values = [*(float(row[name]) for name in NAMES), 1.0]
            self.sums[self.tasks.index(row["task"])] += torch.tensor(values, dtype=torch.float64, device=self.device)

    def compute(self) -> dict[str, dict[str, float]]:
        """Average.

        Returns:
            For each task with rows, the mean of each of ``NAMES``, and ``n``, the number of rows.
        """
        table = dict(zip(self.tasks, self.sums.tolist(), strict=True))
        return {
            task: {name: total / count for name, total in zip(NAMES, sums, strict=True)} | {"n": count}
            for task, (*sums, count) in table.items()
            if count
        }
