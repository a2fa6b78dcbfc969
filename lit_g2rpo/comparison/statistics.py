"""Means over seeds with t-intervals, differences paired by seed, and the sign-flip permutation test, in float64."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Seed = TypeVar("Seed", bound=Hashable)

LEVEL = 0.95
MOST_ENUMERATED = 20
"""Largest number of pairs for which all sign patterns are tried: 2^19, since a pattern and its negative count alike."""
DRAWS = 50_000
"""Number of random sign patterns to try if there are more pairs."""
TIE = 1e-12
"""Rounding error up to which two sums count as a tie, relative to the sum of absolute differences."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds.

    Args:
        n: number of seeds.
        mean: their mean.
        sd: their standard deviation with n - 1; None for one seed.
        low: lower end of the 95 % interval; None for one seed.
        high: upper end of the interval; None for one seed.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class PairedDifference(Generic[Seed]):
    """A difference between two groups, paired by seed.

    Args:
        seeds: the seeds that both have.
        differences: the difference for each seed.
        estimate: mean and interval of the differences.
        p: two-sided p-value of the sign-flip test; None for one pair, for which it is always 1.
        exact: True if p counts every sign pattern, False if it uses random ones.
    """

    seeds: tuple[Seed, ...]
    differences: tuple[float, ...]
    estimate: Estimate
    p: float | None
    exact: bool


def half_widths(n: Any, sd: Any) -> NDArray[np.float64]:
    """Compute half the width of the 95 % t-interval of a mean; NaN where ``n < 2``.

    Args:
        n: number of values behind each mean, any shape.
        sd: their standard deviation with n - 1, same shape.

    Source: Student, The probable error of a mean, Biometrika 6 (1908).
    """
    # imported here to keep the module cheap to import
    from scipy.special import stdtrit

    n = np.asarray(n, dtype=np.float64)
    freedom = np.where(n > 1, n - 1, np.nan)
    half: NDArray[np.float64] = stdtrit(freedom, (1 + LEVEL) / 2) * np.asarray(sd, dtype=np.float64) / np.sqrt(n)
    return half


def estimate(values: Sequence[float]) -> Estimate:
    """Average values, one per seed, with a 95 % t-interval if there are two or more.

    Args:
        values: finite values, ``[n]``, ``n >= 1``.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(len(array), mean)
    sd = float(array.std(ddof=1))
    half = float(half_widths(len(array), sd))
    return Estimate(len(array), mean, sd, mean - half, mean + half)


def bands(values: Any) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Average curves over seeds, point by point.

    Args:
        values: one curve per seed, ``[n, T]``; NaN where a seed has no value.

    Returns:
        Number of seeds at each point, their mean (NaN without seeds), and half the width of its 95 % interval (NaN for
        fewer than two seeds), ``[T]`` each.
    """
    array = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(array)
    n = there.sum(axis=0)
    known = np.where(n > 0, n, np.nan)
    mean = np.where(there, array, 0.0).sum(axis=0) / known
    squares = np.where(there, array - mean, 0.0) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(squares.sum(axis=0) / np.where(n > 1, n - 1, np.nan))
    return n, mean, half_widths(n, sd)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> tuple[float, bool]:
    """Compute the share of sign patterns under which the mean of paired differences is at least as far from 0.

    Up to `MOST_ENUMERATED` pairs, every pattern is counted and the value is exact, at least ``2 / 2^n``. With more,
    `DRAWS` random patterns and the observed one are counted, which is valid but not exact.

    Args:
        differences: finite differences, ``[n]``, ``n >= 1``.
        seed: seed of the random patterns.

    Returns:
        The two-sided p-value, and whether it is exact.

    Source: Fisher, The Design of Experiments (1935), section 21; for random patterns Phipson and Smyth, Permutation
    p-values should never be zero (2010).
    """
    array = np.asarray(differences, dtype=np.float64)
    least = abs(array.sum()) - TIE * np.abs(array).sum()
    if len(array) <= MOST_ENUMERATED:
        sums = array[:1]
        for difference in array[1:]:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(np.mean(np.abs(sums) >= least)), True
    hits = int((np.abs(_random_signs(len(array), seed) @ array) >= least).sum())
    return (1 + hits) / (1 + DRAWS), False


@lru_cache(maxsize=1)
def _random_signs(n: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), (DRAWS, n))


def paired_difference(group: Mapping[Seed, float], baseline: Mapping[Seed, float]) -> PairedDifference[Seed] | None:
    """Compare two groups by the seeds that both have; None if they share none.

    Args:
        group: value by seed.
        baseline: value to subtract, by seed.
    """
    seeds = tuple(seed for seed in group if seed in baseline)
    if not seeds:
        return None
    differences = tuple(group[seed] - baseline[seed] for seed in seeds)
    p, exact = sign_flip_p(differences) if len(seeds) > 1 else (None, True)
    return PairedDifference(seeds, differences, estimate(differences), p, exact)
