"""Dynamic filtering: select groups that teach something."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_g2rpo.objectives.sets import tie_classes


def kept_groups(
    accuracy: Tensor, compared: Sequence[Tensor], group_ids: Tensor, *, low: float, high: float,
    tie_tolerance: float = 1e-6,
) -> Tensor:  # fmt: skip
    """Keep groups that are neither all right nor all wrong, and in which a compared reward differs.

    A group of tied rewards has advantage 0 by itself but not if ranked across its task, so it must be dropped before
    advantages are computed.

    Args:
        accuracy: accuracy of each completion, in [0, 1], ``[N]``.
        compared: the rewards that are compared inside a group, each ``[N]``.
        group_ids: prompt of each completion, ``[N]`` long.
        low: the group's mean accuracy must be above this.
        high: the group's mean accuracy must be below this.
        tie_tolerance: neighbors in sorted order no farther apart than this are tied, in units of the rewards.

    Returns:
        True for the completions of the groups to keep, ``[N]`` bool.

    Source: arXiv 2503.14476, section 3.2, with the bounds of the released code of arXiv 2604.08539.
    """
    if any(values.shape != group_ids.shape for values in (accuracy, *compared)) or accuracy.ndim != 1:
        raise ValueError("accuracy, rewards and group ids must be one-dimensional and of the same length")
    values = torch.stack([accuracy, *compared]).detach().cpu().double()
    bad = (~values.isfinite()).any(0).nonzero().flatten()
    if len(bad):
        raise ValueError(f"accuracy or rewards not finite at {len(bad)} indices: {bad[:20].tolist()}")
    groups: Tensor = torch.unique(group_ids.cpu(), return_inverse=True)[1]
    size = groups.bincount()
    mean = torch.zeros(len(size), dtype=torch.float64).index_add(0, groups, values[0]) / size
    differs = torch.zeros(len(size), dtype=torch.bool)
    for rewards in values[1:]:
        order, begins = tie_classes(rewards, groups, tie_tolerance)
        differs |= torch.zeros(len(size), dtype=torch.long).index_add(0, groups[order], begins.long()) > 1
    keep = (mean > low) & (mean < high) & differs
    return keep[groups].to(accuracy.device)
