"""Advantages of every objective once more, in numpy and scipy, from one array of rewards per group."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Values = NDArray[np.float64]


def advantages(
    method: str, c: dict[str, Any], rewards: list[Values], parts: list[Values], kinds: list[str], moments: Any
) -> list[Values]:
    """Compute the advantages of groups that count.

    Args:
        method: name of the objective's class.
        c: its coefficients.
        rewards: total rewards of each group.
        parts: accuracy, format and structure of each group, ``[3, G]``.
        kinds: what the map treats as a task, for each group.
        moments: running mean and mean square by kind, updated in place.
    """
    whole = ["all"] * len(rewards)
    if method == "G2RPO":
        return mapped(c["scope"], rewards, kinds)
    if method == "GRPO":
        return [z(values) for values in rewards]
    if method == "DrGRPO":
        return [values - values.mean() for values in rewards]
    if method == "RLOO":
        return [np.array([v - np.delete(values, i).mean() for i, v in enumerate(values)]) for values in rewards]
    if method == "ReinforcePP":
        return across(whole, [values - values.mean() for values in rewards], z)
    if method == "GOPO":
        return [4 * (rankdata(values.round(9)) - 1) / (len(values) - 1) - 2 for values in rewards]
    if method == "GDPO":
        return across(whole, [np.sum([z(part) for part in group], 0) for group in parts], z)
    if method == "GaussianGDPO":
        return across(kinds, [np.sum([normal(part) for part in group], 0) for group in parts], normal)
    assert method == "EmaGRPO"
    return running(c["decay"], rewards, kinds, moments)


def mapped(scope: str, rewards: list[Values], kinds: list[str]) -> list[Values]:
    if scope == "task":
        return across(kinds, rewards, normal)
    scores = [normal(values) for values in rewards]
    if scope == "group_unit_rms":
        return across(kinds, scores, lambda values: values / np.sqrt(np.mean(values**2)))
    return across(kinds, scores, normal) if scope == "group_then_task" else scores


def running(decay: float, rewards: list[Values], kinds: list[str], moments: dict[str, Values]) -> list[Values]:
    for kind in set(kinds):
        values = np.concatenate([values for values, other in zip(rewards, kinds, strict=True) if other == kind])
        now = np.array([values.mean(), (values**2).mean()])
        moments[kind] = decay * moments[kind] + (1 - decay) * now if kind in moments else now
    found = []
    for values, kind in zip(rewards, kinds, strict=True):
        mean, square = moments[kind]
        scores = (values - values.mean()) / max(np.sqrt(max(square - mean**2, 0)), 1e-3)
        found.append(z(values, ddof=0) if abs(scores).max() > 5 else scores)
    return found


def z(values: Values, ddof: int = 1) -> Values:
    return (values - values.mean()) / (values.std(ddof=ddof) + 1e-6)


def normal(values: Values) -> Values:
    """Quantiles of a standard normal by rank, averaged over ties."""
    ordered, quantiles = np.sort(values), norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    return np.array([quantiles[abs(ordered - value) < 1e-6].mean() for value in values])


def across(kinds: list[str], values: list[Values], function: Callable[[Values], Values]) -> list[Values]:
    """Apply a function to the values of all groups of a kind together."""
    found: dict[int, Values] = {}
    for kind in set(kinds):
        own = [i for i, other in enumerate(kinds) if other == kind]
        parts = np.split(function(np.concatenate([values[i] for i in own])), len(own))
        found |= dict(zip(own, parts, strict=True))
    return [found[i] for i in range(len(values))]
