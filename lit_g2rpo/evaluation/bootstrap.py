"""Intervals by resampling questions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95


def resampled_means(values: Sequence[float], seed: int) -> NDArray[np.float64]:
    """Average resamples of all questions, drawn with replacement.

    Args:
        values: one value per question, ``[n]``, ``n >= 1``.
        seed: the same seed gives the same draws.

    Returns:
        ``[RESAMPLES]``.

    Source: percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    return np.array([array[generator.integers(0, len(array), len(array))].mean() for _ in range(RESAMPLES)])


def interval(draws: NDArray[np.float64]) -> list[float]:
    """Return the ends of the central 95 % of resampled means ``[RESAMPLES]``."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
