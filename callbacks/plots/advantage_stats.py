"""Statistics of rewards and advantages of a rollout: ties, size, spread, and signs flipped by the second map."""

import torch
from torch import Tensor

from lit_g2rpo.experience import RolloutTable
from lit_g2rpo.objectives.advantages import gaussian

TIE_TOLERANCE = 1e-6
"""Rewards that differ by at most this are tied, as in the Gaussian map."""


def tie_stats(rewards: Tensor) -> dict[str, float]:
    """Count ties inside groups.

    Args:
        rewards: total rewards, ``[P, G]``, at least one group.

    Returns:
        ``tie_rate``, the share of completions tied with another of their group; ``tied_groups``, the share of groups
        whose completions are all tied; ``levels``, the mean number of distinct rewards in a group.
    """
    same = rewards.sort(1).values.diff(dim=1) <= TIE_TOLERANCE
    edge = torch.zeros(len(rewards), 1, dtype=torch.bool)
    tied = torch.cat([edge, same], 1) | torch.cat([same, edge], 1)
    levels = rewards.shape[1] - same.sum(1)
    return {
        "tie_rate": float(tied.double().mean()),
        "tied_groups": float((levels == 1).double().mean()),
        "levels": float(levels.double().mean()),
    }


def flipped_signs(table: RolloutTable) -> Tensor:
    """Find completions whose advantage has another sign under their group's own Gaussian map, ``[P, G]``."""
    groups = torch.arange(len(table.rewards))[:, None].expand(table.rewards.shape).flatten()
    first = gaussian(table.rewards.flatten(), groups, groups, scope="group").view(table.rewards.shape)
    return first * table.advantages < 0


def advantage_stats(table: RolloutTable, prompts: Tensor, flipped: Tensor | None) -> dict[str, float]:
    """Summarize rewards and advantages of some prompts.

    Args:
        prompts: which prompts of the rollout, ``[P]`` bool, at least one of them.
        flipped: from `flipped_signs`; None if there is no second map.

    Returns:
        `tie_stats` over all their groups; over the completions that count, if any, ``mean_abs``, ``variance`` (biased)
        and, if ``flipped`` is given, ``sign_flips``, the share that flipped.
    """
    stats = tie_stats(table.rewards[prompts])
    counted = table.valid & prompts[:, None]
    if counted.any():
        values = table.advantages[counted].double()
        stats |= {"mean_abs": float(values.abs().mean()), "variance": float(values.var(correction=0))}
        if flipped is not None:
            stats["sign_flips"] = float(flipped[counted].double().mean())
    return stats
