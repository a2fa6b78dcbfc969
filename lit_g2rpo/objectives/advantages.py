"""Advantages: how the rewards of a rollout become the numbers that weigh its tokens.

Every estimator is a function of one scalar per completion. Work is done in float64 on the host (a rollout has a few
thousand completions, and some accelerators have no float64) and comes back in the dtype and on the device of its input.
Those made from ranks, the Gaussian map among them, lie in `ranks`; those made from means and deviations are here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_g2rpo.objectives.ema import EmaStandardized
from lit_g2rpo.objectives.ranks import Scope, gaussian, gaussian_decoupled, linear_ranks, normal_scores
from lit_g2rpo.objectives.sets import index, mean_within, restore, select, standardize

__all__ = [
    "EmaStandardized",
    "Scope",
    "centered",
    "decoupled",
    "gaussian",
    "gaussian_decoupled",
    "leave_one_out",
    "linear_ranks",
    "normal_scores",
    "standardized",
    "whitened",
]


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
    values, rows = select(rewards, valid)
    return restore(standardize(values, index(group_ids, rows, rewards)), rows, rewards)


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
    values, rows = select(rewards, valid)
    return restore(values - mean_within(values, index(group_ids, rows, rewards)), rows, rewards)


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
    values, rows = select(rewards, valid)
    groups = index(group_ids, rows, rewards)
    count = groups.bincount()[groups]
    # R_i - (S - R_i) / (n - 1) = (R_i - S / n) * n / (n - 1)
    scores = (values - mean_within(values, groups)) * count / (count - 1).clamp(min=1)
    return restore(scores, rows, rewards)


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
        values, rows = select(component, valid, name)
        total = total + weights.get(name, 1.0) * standardize(values, index(group_ids, rows, component))
    whitened = standardize(total, torch.zeros_like(rows))
    return restore(whitened, rows, component)


def whitened(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """REINFORCE++ with baseline: rewards of a group less their mean, whitened over the batch.

    Args:
        rewards: total reward of each completion, ``[N]``.
        group_ids: which prompt a completion answers, ``[N]`` long.
        task_ids: not read; here so that the estimators are interchangeable.
        valid: False for completions of dropped groups, ``[N]`` bool.

    Returns:
        Advantages ``[N]`` with mean 0 and unit unbiased standard deviation over the valid completions (one value per
        completion, not per token), 0 where ``valid`` is False.

    Raises:
        ValueError: if a valid reward is not finite or the shapes differ.

    Source: arXiv 2501.03262, section 3.
    """
    values, rows = select(rewards, valid)
    difference = values - mean_within(values, index(group_ids, rows, rewards))
    return restore(standardize(difference, torch.zeros_like(rows)), rows, rewards)
