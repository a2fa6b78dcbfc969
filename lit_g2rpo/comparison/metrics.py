"""A metric of all groups: curves with bands over seeds, and figures with differences from a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_g2rpo.comparison.groups import Group
from lit_g2rpo.comparison.runs import Array, Seed
from lit_g2rpo.comparison.statistics import Estimate, PairedDifference, bands, estimate, paired_difference

BEST = "val/accuracy"
"""Metric whose highest value is also a figure, like those of its tasks."""


def telling(name: str) -> str:
    """Return the most informative figure of a metric: the last of few validations, or the mean of a noisy curve."""
    return "last" if name.startswith("val/") else "mean"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a group.

    Args:
        by_seed: value of each run that has one.
        estimate: their mean and interval; None if no run has one.
        difference: difference from the baseline's, paired by seed; None for the baseline, or if they share no seed.
    """

    by_seed: dict[Seed, float]
    estimate: Estimate | None
    difference: PairedDifference[Seed] | None


@dataclass(frozen=True, slots=True)
class Band:
    """The curve of a group.

    Args:
        n: number of seeds at each point, ``[T]``.
        mean: their mean, NaN without seeds, ``[T]``.
        half: half the width of its 95 % interval, NaN for fewer than two seeds, ``[T]``.
    """

    n: NDArray[np.int64]
    mean: Array
    half: Array


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric of all groups.

    Args:
        rollouts: the rollouts at which any run has it, ``[T]``.
        bands: the curve of each group over these rollouts.
        common: the latest rollout at which all compared runs with the metric have a value; None if there is none.
        figures: a figure of each group, by name: ``last``, the value at ``common``; ``mean``, over the rollouts up to
            it that all those runs have; for validation accuracies ``best``, the highest of these.
    """

    rollouts: NDArray[np.int64]
    bands: list[Band]
    common: int | None
    figures: dict[str, list[Figure]]


def compare_metric(
    name: str, groups: Sequence[Group], baseline: int, limit: int, left_out: frozenset[int] = frozenset()
) -> MetricComparison:
    """Compare a metric.

    Args:
        name: a metric that at least one run has.
        groups: all groups.
        baseline: index of the group that is subtracted.
        limit: last rollout for figures; curves continue beyond it.
        left_out: ``id`` of runs that only have curves.
    """
    having = [
        (place, seed, run)
        for place, group in enumerate(groups)
        for seed, run in group.runs.items()
        if name in run.curves.metrics
    ]
    columns = [(run.curves.rollouts, run.curves.metrics[name]) for _, _, run in having]
    points = [(rollouts[there], values[there]) for rollouts, values in columns for there in [~np.isnan(values)]]
    rollouts = np.unique(np.concatenate([rollouts for rollouts, _ in points]))
    table = np.full((len(having), len(rollouts)), np.nan)
    for row, (own, values) in zip(table, points, strict=True):
        row[np.searchsorted(rollouts, own)] = values
    places = np.array([place for place, _, _ in having])
    curves = [Band(*bands(table[places == place])) for place in range(len(groups))]

    compared = [index for index, (_, _, run) in enumerate(having) if id(run) not in left_out]
    shared = (rollouts <= limit) & ~np.isnan(table[compared]).any(axis=0)
    if not compared or not shared.any():
        return MetricComparison(rollouts, curves, None, {})
    within = table[compared][:, shared]
    summaries = {"last": within[:, -1], "mean": within.mean(axis=1)}
    if name == BEST or name.startswith(f"{BEST}/"):
        summaries["best"] = within.max(axis=1)
    figures = {}
    for figure, column in summaries.items():
        by_seed: list[dict[Seed, float]] = [{} for _ in groups]
        for index, value in zip(compared, column.tolist(), strict=True):
            place, seed, _ = having[index]
            by_seed[place][seed] = value
        figures[figure] = [
            Figure(
                own,
                estimate(list(own.values())) if own else None,
                paired_difference(own, by_seed[baseline]) if place != baseline else None,
            )
            for place, own in enumerate(by_seed)
        ]
    return MetricComparison(rollouts, curves, int(rollouts[shared][-1]), figures)
