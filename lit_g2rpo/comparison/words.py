"""Figures formatted for people."""

from collections.abc import Sequence
from typing import Any

from lit_g2rpo.comparison.statistics import Estimate, PairedDifference


def interval(estimate: Estimate, form: str) -> str:
    """Format a mean with half the width of its interval, or alone if there is no interval."""
    mean = format(estimate.mean, form)
    return mean if estimate.high is None else f"{mean} ±{format(estimate.high - estimate.mean, form.lstrip('+'))}"


def p_value(difference: PairedDifference[Any] | None) -> str:
    """Format the p-value of a sign-flip test; ``~`` marks one that is not exact."""
    if difference is None or difference.p is None:
        return ""
    return f"{'' if difference.exact else '~'}{difference.p:.{3 if difference.p >= 0.001 else 5}f}"


def amount(value: float | None) -> str:
    """Format a number of tokens: 950, 12.3 k, 4.56 M, 7.89 G."""
    if value is None:
        return ""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Format seconds as 45 s, 3:20 min or 5:07 h."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def ranges(numbers: Sequence[int]) -> str:
    """Format increasing numbers as 1-3, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
