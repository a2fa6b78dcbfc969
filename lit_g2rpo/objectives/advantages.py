"""Advantages: how the rewards of a rollout become the numbers that weigh its tokens.

Every estimator is a function of one scalar per completion. Work is done in float64 on the host (a rollout has a few
thousand completions, and some accelerators have no float64) and comes back in the dtype and on the device of its input.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["group", "task", "group_then_task", "group_unit_rms"]

EPSILON = 1e-6


def normal_scores(rewards: Tensor, *, tie_tolerance: float = 1e-6) -> Tensor:
    """Map rewards onto the quantiles of a standard normal by rank; only their order matters.

    Rank ``i`` of ``N`` gets the quantile of ``(i - 0.5) / N``; every member of a tie class gets the mean of the class's
    quantiles. This is the optimal transport of the empirical distribution onto N(0, 1).

    Args:
        rewards: one reward per completion, any scale, ``[N]``.
        tie_tolerance: neighbours in sorted order no further apart than this are tied, in units of the rewards.

    Returns:
        Scores ``[N]`` with mean 0 in the dtype of the rewards; 0 where ``N`` is 1 or all are tied.

    Raises:
        ValueError: if a reward is NaN or infinite, with its index.

    Source: arXiv 2604.08539, eq. 5-8.
    """
    values, rows = _select(rewards, None)
    return _restore(_scores_within(values, torch.zeros_like(rows), tie_tolerance), rows, rewards)


def gaussian(
    rewards: Tensor,
    group_ids: Tensor,
    task_ids: Tensor,
    *,
    scope: Scope = "group_then_task",
    valid: Tensor | None = None,
    tie_tolerance: float = 1e-6,
) -> Tensor:
    """Gaussian GRPO: the rank-to-normal map inside each group, each task, or both in sequence.

    ``group_then_task`` maps inside each group and maps those scores again across their task: every task then has unit
    variance, but a completion's sign may change and a group's mean is no longer 0. ``group_unit_rms`` keeps the scores
    of the group and scales each task to unit root mean square instead, so no sign changes.

    Args:
        rewards: total reward of each completion, ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long; a group lies in one task.
        task_ids: the unit across which scores are compared, ``[N]`` long.
        scope: where the map is applied.
        valid: False for completions of dropped groups, ``[N]`` bool; they take no part in any statistic.
        tie_tolerance: see `normal_scores`; also what makes equal scores of different groups tie.

    Returns:
        Advantages ``[N]``, 0 where ``valid`` is False.

    Raises:
        ValueError: if a valid reward is not finite, the shapes differ, or the scope is unknown.

    Source: arXiv 2604.08539, eq. 5-8 (``task``) and eq. 13 (``group``); ``group_then_task`` is the released code.
    """
    values, rows = _select(rewards, valid)
    groups, tasks = _index(group_ids, rows, rewards), _index(task_ids, rows, rewards)
    if scope == "task":
        scores = _scores_within(values, tasks, tie_tolerance)
    elif scope in ("group", "group_then_task", "group_unit_rms"):
        scores = _scores_within(values, groups, tie_tolerance)
    else:
        raise ValueError(f"unknown scope {scope!r}: group, task, group_then_task or group_unit_rms")
    if scope == "group_then_task":
        scores = _scores_within(scores, tasks, tie_tolerance)
    elif scope == "group_unit_rms":
        # Ties make the rms of a task smaller than 1; a task of tied groups alone has rms 0 and stays 0.
        rms = _mean_within(scores.square(), tasks).sqrt()
        scores = scores / torch.where(rms > 0, rms, 1.0)
    return _restore(scores, rows, rewards)


def standardized(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """GRPO: rewards of a group less their mean, over their unbiased standard deviation plus 1e-6.

    Args:
        rewards: total reward of each completion, ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long.
        task_ids: not read; here so that the estimators are interchangeable.
        valid: False for completions of dropped groups, ``[N]`` bool.

    Returns:
        Advantages ``[N]``, 0 in a group of one and where ``valid`` is False.

    Raises:
        ValueError: if a valid reward is not finite or the shapes differ.

    Source: arXiv 2402.03300, section 4.1.2.
    """
    values, rows = _select(rewards, valid)
    return _restore(_standardize(values, _index(group_ids, rows, rewards)), rows, rewards)


def centered(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """Dr. GRPO: rewards of a group less their mean, with no division.

    Args:
        rewards: total reward of each completion, ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long.
        task_ids: not read; here so that the estimators are interchangeable.
        valid: False for completions of dropped groups, ``[N]`` bool.

    Returns:
        Advantages ``[N]``, 0 in a group of one and where ``valid`` is False.

    Raises:
        ValueError: if a valid reward is not finite or the shapes differ.

    Source: arXiv 2503.20783, section 3.2.
    """
    values, rows = _select(rewards, valid)
    return _restore(values - _mean_within(values, _index(group_ids, rows, rewards)), rows, rewards)


def leave_one_out(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """RLOO: each reward less the mean of the others in its group.

    Args:
        rewards: total reward of each completion, ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long.
        task_ids: not read; here so that the estimators are interchangeable.
        valid: False for completions of dropped groups, ``[N]`` bool.

    Returns:
        Advantages ``[N]``, 0 in a group of one and where ``valid`` is False.

    Raises:
        ValueError: if a valid reward is not finite or the shapes differ.

    Source: arXiv 2402.14740, section 2.2.
    """
    values, rows = _select(rewards, valid)
    groups = _index(group_ids, rows, rewards)
    count = groups.bincount()[groups]
    # R_i - (S - R_i) / (n - 1) = (R_i - S / n) * n / (n - 1)
    scores = (values - _mean_within(values, groups)) * count / (count - 1).clamp(min=1)
    return _restore(scores, rows, rewards)


def decoupled(
    components: Mapping[str, Tensor],
    group_ids: Tensor,
    task_ids: Tensor | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """GDPO: each component standardised in its group, their weighted sum whitened over the batch.

    Args:
        components: named parts of the reward, each ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long.
        task_ids: not read; here so that the estimators are interchangeable.
        weights: weight of a component in the sum; 1 where a name is missing.
        valid: False for completions of dropped groups, ``[N]`` bool.

    Returns:
        Advantages ``[N]`` with mean 0 and unit unbiased standard deviation over the valid completions (one value per
        completion, not per token), 0 where ``valid`` is False.

    Raises:
        ValueError: if there is no component, a weight names none of them, or a valid value is not finite.

    Source: arXiv 2601.05242, section 3.
    """
    weights = {} if weights is None else weights
    if not components or not weights.keys() <= components.keys():
        raise ValueError(f"components {sorted(components)} with weights for {sorted(weights)}")
    total = torch.zeros((), dtype=torch.float64)
    for name, component in components.items():
        values, rows = _select(component, valid, name)
        total = total + weights.get(name, 1.0) * _standardize(values, _index(group_ids, rows, component))
    whitened = _standardize(total, torch.zeros_like(rows))
    return _restore(whitened, rows, component)


def tie_classes(values: Tensor, set_ids: Tensor, tie_tolerance: float) -> tuple[Tensor, Tensor]:
    """Sort values inside each set and mark where a tie class begins.

    Args:
        values: finite values, ``[N]``.
        set_ids: the set each value is ranked in, ``[N]`` long.
        tie_tolerance: neighbours no further apart than this are tied.

    Returns:
        The order ``[N]`` long, sets ascending and values ascending within each, and in that order True where a value
        does not tie with the one before it in its set, ``[N]`` bool.
    """
    order = values.argsort(stable=True)
    order = order[set_ids[order].argsort(stable=True)]
    values, set_ids = values[order], set_ids[order]
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[1:] = (set_ids[1:] != set_ids[:-1]) | (values[1:] - values[:-1] > tie_tolerance)
    return order, begins


def _scores_within(values: Tensor, set_ids: Tensor, tie_tolerance: float) -> Tensor:
    """`normal_scores` of float64 values inside each set; set ids count from 0 without holes."""
    order, begins = tie_classes(values, set_ids, tie_tolerance)
    size = set_ids.bincount()
    sets = set_ids[order]
    rank = torch.arange(len(values)) - (size.cumsum(0) - size)[sets]
    # 2 p - 1 as an exact odd function of the rank: scores of -R are then exactly minus the scores of R.
    quantiles = math.sqrt(2) * torch.erfinv((2 * rank + 1 - size[sets]).double() / size[sets])
    means = _mean_within(quantiles, begins.cumsum(0) - 1)
    # The mean of quantiles that cancel is 1e-17 rather than 0.
    means = torch.where(means.abs() < 1e-12, 0.0, means)
    return torch.empty_like(values).index_copy(0, order, means)


def _standardize(values: Tensor, set_ids: Tensor) -> Tensor:
    """Values less their set's mean, over its unbiased standard deviation plus epsilon."""
    size = set_ids.bincount()[set_ids]
    difference = values - _mean_within(values, set_ids)
    # A set of one has difference 0, whatever it is divided by.
    deviation = (_mean_within(difference.square(), set_ids) * size / (size - 1).clamp(min=1)).sqrt()
    return difference / (deviation + EPSILON)


def _mean_within(values: Tensor, set_ids: Tensor) -> Tensor:
    """Mean of each value's set, ``[N]``."""
    size = set_ids.bincount()
    return (torch.zeros(len(size), dtype=values.dtype).index_add(0, set_ids, values) / size)[set_ids]


def _select(values: Tensor, valid: Tensor | None, name: str = "rewards") -> tuple[Tensor, Tensor]:
    """The valid rows as float64 on the host, and their indices."""
    if values.ndim != 1 or (valid is not None and valid.shape != values.shape):
        raise ValueError(f"{name} {list(values.shape)} must be one-dimensional, and valid of the same shape")
    rows = torch.arange(len(values)) if valid is None else valid.cpu().nonzero().flatten()
    selected = values.detach().cpu().double()[rows]
    bad = rows[~selected.isfinite()]
    if len(bad):
        raise ValueError(f"{name} not finite at {len(bad)} indices: {bad[:20].tolist()}")
    return selected, rows


def _index(ids: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Ids of the valid rows, renumbered from 0 without holes."""
    if ids.shape != values.shape:
        raise ValueError(f"ids {list(ids.shape)} do not match values {list(values.shape)}")
    inverse: Tensor = torch.unique(ids.cpu()[rows], return_inverse=True)[1]
    return inverse


def _restore(scores: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Scores back at their rows, 0 elsewhere, in the dtype and on the device of the values."""
    full = torch.zeros(len(values), dtype=torch.float64).index_copy(0, rows, scores)
    return full.to(values.device, values.dtype if values.is_floating_point() else torch.get_default_dtype())
