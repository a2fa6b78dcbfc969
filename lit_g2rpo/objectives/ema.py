"""EMA-GRPO: rewards minus their group's mean, divided by a running standard deviation of their task."""

import torch
from torch import Tensor

from lit_g2rpo.objectives.sets import index, mean_within, restore, select, standardize

FLOOR = 1e-3
LIMIT = 5.0


class EmaStandardized:
    """The estimator with its running moments per task, which are in the checkpoint and the same on every rank.

    The moments start at the first batch and are updated before use. A group with an advantage above 5 in absolute value
    is standardized by its own biased standard deviation instead, as in the released code (the paper clips).

    Args:
        decay: weight of the past in the running moments, in [0, 1).

    Source: arXiv 2512.03043, eq. 9-11, and its released code.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = decay
        self.moments: dict[int, tuple[float, float]] = {}

    def __call__(self, rewards: Tensor, group_ids: Tensor, task_ids: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Update the moments of the tasks present, and compute advantages as an `Estimator` does."""
        values, rows = select(rewards, valid)
        groups, tasks = index(group_ids, rows, rewards), task_ids.cpu()[rows]
        deviation = torch.empty_like(values)
        for task in sorted(set(tasks.tolist())):
            of_task = tasks == task
            deviation[of_task] = self._updated(task, values[of_task])
        scores = (values - mean_within(values, groups)) / deviation
        outlier = torch.zeros(int(groups.max()) + 1 if len(groups) else 0, dtype=torch.bool)
        outlier[groups[scores.abs() > LIMIT]] = True
        return restore(torch.where(outlier[groups], standardize(values, groups, unbiased=False), scores), rows, rewards)

    def _updated(self, task: int, values: Tensor) -> float:
        """Update a task's moments with this batch, and return its running standard deviation."""
        first, second = float(values.mean()), float(values.square().mean())
        if task in self.moments:
            old_first, old_second = self.moments[task]
            first = self.decay * old_first + (1 - self.decay) * first
            second = self.decay * old_second + (1 - self.decay) * second
        self.moments[task] = (first, second)
        return float(max(max(second - first**2, 0.0) ** 0.5, FLOOR))

    def state_dict(self) -> dict[int, tuple[float, float]]:
        """Return the mean and mean square of each task seen so far."""
        return dict(self.moments)

    def load_state_dict(self, state: dict[int, tuple[float, float]]) -> None:
        """Restore the moments."""
        self.moments = dict(state)
