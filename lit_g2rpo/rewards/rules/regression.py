"""Regression: mean relative accuracy."""

from fractions import Fraction

ZERO_SCALE = 1
"""Scale of the error for a gold value of zero, in the unit of the answer."""


def mean_relative_accuracy(answer: Fraction, gold: Fraction) -> float:
    """Return the fraction of ten thresholds ``t = 0.50, 0.55, .., 0.95`` with relative error below ``1 - t``.

    Uses exact arithmetic: in floating point, rounding would decide whether an error of exactly 0.10 passes.

    Args:
        gold: the gold value; for 0 the error is absolute, in units of ``ZERO_SCALE``.

    Source: VSI-Bench (arXiv 2412.14171) section 3, as used by OpenVLThinkerV2.
    """
    scale = abs(gold) or Fraction(ZERO_SCALE)
    # error < k/20 for k = 1 .. 10, counted at once: the smallest k that passes is floor(20 * error) + 1.
    return max(0, 10 - int(20 * abs(answer - gold) / scale)) / 10
