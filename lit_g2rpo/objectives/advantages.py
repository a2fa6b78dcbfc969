"""Advantages: turn the rewards of a rollout into weights for its tokens.

All computation is in float64 on the host (a rollout has a few thousand completions, and some accelerators have no
float64); results have the dtype and device of the input. Estimators based on ranks, such as the Gaussian map, are in
`ranks`; those based on means and deviations are here.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lit_g2rpo.objectives.ema import EmaStandardized
from lit_g2rpo.objectives.ranks import Scope, gaussian, gaussian_decoupled, linear_ranks, normal_scores
from lit_g2rpo.objectives.sets import index, mean_within, restore, select, standardize

__all__ = [
    "EmaStandardized",
    "Estimator",
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


class Estimator(Protocol):
    """Signature of an estimator; each function here also has its own options by name."""

    def __call__(self, rewards: Tensor, group_ids: Tensor, task_ids: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Compute advantages from one scalar per completion.

        Args:
            rewards: total reward of each completion on all ranks, ``[N]``; the decoupled estimators take the named
                parts of the reward instead, each ``[N]``.
            group_ids: prompt of each completion, ``[N]`` long; a group belongs to one task.
            task_ids: the unit across which rewards are compared, ``[N]`` long; ignored by estimators that only compare
                inside groups.
            valid: False for completions of dropped groups, ``[N]`` bool; they are excluded from all statistics.

        Returns:
            Advantages ``[N]``, 0 where ``valid`` is False, and 0 in a group of one if only groups are compared.

        Raises:
            ValueError: if a valid reward is not finite, with its index, or the shapes differ.
        """


def standardized(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """GRPO: subtract the group's mean from rewards, and divide by its unbiased standard deviation plus 1e-6.

    Source: arXiv 2402.03300, section 4.1.2.
    """
    values, rows = select(rewards, valid)
    return restore(standardize(values, index(group_ids, rows, rewards)), rows, rewards)


def centered(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """Dr. GRPO: subtract the group's mean from rewards, without dividing.

    Source: arXiv 2503.20783, section 3.2.
    """
    values, rows = select(rewards, valid)
    return restore(values - mean_within(values, index(group_ids, rows, rewards)), rows, rewards)


def leave_one_out(
    rewards: Tensor, group_ids: Tensor, task_ids: Tensor | None = None, *, valid: Tensor | None = None
) -> Tensor:
    """RLOO: subtract the mean of the other rewards in its group from each reward.

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
    """GDPO: standardize each component in its group, and whiten their weighted sum, with default weight 1.

    Whitening (mean 0, unbiased standard deviation 1) is over completions, not tokens. Raises ValueError if there is no
    component, or a weight does not name one.

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
    """REINFORCE++ with baseline: subtract the group's mean from rewards, and whiten over the batch's completions.

    Source: arXiv 2501.03262, section 3.
    """
    values, rows = select(rewards, valid)
    difference = values - mean_within(values, index(group_ids, rows, rewards))
    return restore(standardize(difference, torch.zeros_like(rows)), rows, rewards)
