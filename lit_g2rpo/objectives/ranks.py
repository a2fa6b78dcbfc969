"""Advantages from ranks: the Gaussian map of G2RPO, and the linear map it is compared with."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from lit_g2rpo.objectives.sets import index, mean_within, restore, select, tie_classes

Scope = Literal["group", "task", "group_then_task", "group_unit_rms"]


def normal_scores(rewards: Tensor, *, tie_tolerance: float = 1e-6) -> Tensor:
    """Map rewards onto the quantiles of a standard normal by rank; only their order matters.

    Rank ``i`` of ``N`` gets the quantile of ``(i - 0.5) / N``; every member of a tie class gets the mean of the class's
    quantiles. This is the optimal transport of the empirical distribution onto N(0, 1).

    Args:
        rewards: one reward per completion, any scale, ``[N]``.
        tie_tolerance: neighbors in sorted order no farther apart than this are tied, in units of the rewards.

    Returns:
        Scores ``[N]`` with mean 0; 0 where ``N`` is 1 or all are tied.

    Source: arXiv 2604.08539, eq. 5-8.
    """
    values, rows = select(rewards, None)
    return restore(_scores_within(values, torch.zeros_like(rows), tie_tolerance), rows, rewards)


def gaussian(
    rewards: Tensor,
    group_ids: Tensor,
    task_ids: Tensor,
    *,
    scope: Scope = "group_then_task",
    valid: Tensor | None = None,
    tie_tolerance: float = 1e-6,
) -> Tensor:
    """Gaussian GRPO: apply `normal_scores` inside each group, each task, or both in sequence.

    ``group_then_task`` maps inside each group and maps those scores again across their task: every task then has unit
    variance, but a completion's sign may change and a group's mean is no longer 0. ``group_unit_rms`` keeps the scores
    of the group and scales each task to unit root mean square instead, so no sign changes. Equal scores of different
    groups also tie within the tolerance.

    Source: arXiv 2604.08539, eq. 5-8 (``task``) and eq. 13 (``group``); ``group_then_task`` is the released code.
    """
    values, rows = select(rewards, valid)
    groups, tasks = index(group_ids, rows, rewards), index(task_ids, rows, rewards)
    if scope == "task":
        scores = _scores_within(values, tasks, tie_tolerance)
    elif scope in ("group", "group_then_task", "group_unit_rms"):
        scores = _scores_within(values, groups, tie_tolerance)
    else:
        raise ValueError(f"unknown scope {scope!r}: group, task, group_then_task or group_unit_rms")
    if scope == "group_then_task":
        scores = _scores_within(scores, tasks, tie_tolerance)
    elif scope == "group_unit_rms":
        # Ties make the rms of a task smaller than 1; a task with only tied groups has rms 0 and stays 0.
        rms = mean_within(scores.square(), tasks).sqrt()
        scores = scores / torch.where(rms > 0, rms, 1.0)
    return restore(scores, rows, rewards)


def gaussian_decoupled(
    components: Mapping[str, Tensor],
    group_ids: Tensor,
    task_ids: Tensor,
    *,
    valid: Tensor | None = None,
    tie_tolerance: float = 1e-6,
) -> Tensor:
    """GS-GDPO: map each component onto a standard normal in its group, and their sum again across the task.

    Source: released code of arXiv 2604.08539 (estimator ``gs_gdpo``).
    """
    if not components:
        raise ValueError("no component")
    total = torch.zeros((), dtype=torch.float64)
    for name, component in components.items():
        values, rows = select(component, valid, name)
        total = total + _scores_within(values, index(group_ids, rows, component), tie_tolerance)
    tasks = index(task_ids, rows, component)
    return restore(_scores_within(total, tasks, tie_tolerance), rows, component)


def linear_ranks(
    rewards: Tensor,
    group_ids: Tensor,
    task_ids: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    tie_tolerance: float = 1e-6,
) -> Tensor:
    """GOPO: spread the ranks of a group evenly from -2 to 2, with tied rewards at the mean of their ranks.

    Source: arXiv 2602.03876; the uniform counterpart of the Gaussian map.
    """
    values, rows = select(rewards, valid)
    return restore(_ranked(values, index(group_ids, rows, rewards), tie_tolerance, _even), rows, rewards)


def _scores_within(values: Tensor, set_ids: Tensor, tie_tolerance: float) -> Tensor:
    """Compute `normal_scores` of float64 values inside each set; set ids count from 0 without gaps."""
    return _ranked(values, set_ids, tie_tolerance, _quantile)


def _ranked(values: Tensor, set_ids: Tensor, tie_tolerance: float, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Score each value's rank in its set by the mean over its tie class; set ids count from 0 without gaps."""
    order, begins = tie_classes(values, set_ids, tie_tolerance)
    size = set_ids.bincount()
    sets = set_ids[order]
    rank = torch.arange(len(values)) - (size.cumsum(0) - size)[sets]
    # An exact odd function of 2 rank + 1 - N: scores of -R are then exactly minus the scores of R.
    means = mean_within(score((2 * rank + 1 - size[sets]).double(), size[sets]), begins.cumsum(0) - 1)
    # Rounding makes the mean of scores that cancel 1e-17 instead of 0.
    means = torch.where(means.abs() < 1e-12, 0.0, means)
    return torch.empty_like(values).index_copy(0, order, means)


def _quantile(odd: Tensor, size: Tensor) -> Tensor:
    """Compute the standard normal quantile of (rank + 1/2) / N, which is sqrt(2) erfinv of ``odd / N``."""
    return math.sqrt(2) * torch.erfinv(odd / size)


def _even(odd: Tensor, size: Tensor) -> Tensor:
    """Spread from -2 at the lowest rank to 2 at the highest."""
    return 2 * odd / (size - 1).clamp(min=1)
