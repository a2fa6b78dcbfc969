"""Bands from a measurement of the starting policy: pure rules, without model or files."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand

Style = Literal["reasoning", "hybrid", "vision"]

RATIOS: dict[Style, tuple[float, float, float, float | None]] = {
    "reasoning": (0.25, 1.2, 2.5, None),
    "hybrid": (0.25, 0.9, 3.0, 8.0),
    "vision": (0.1, 0.25, 0.6, 2.0),
}
"""Length thresholds as multiples of the starting mean, None for the longest completion: the plateaus cover the final
mean lengths in the paper's Figure 3 (x1.45 and x1.75; x2.8 and x1.3; x0.5 and x0.45)."""

PAPER_STYLES: dict[str, Style] = {
    "spatial_grounding": "vision",
    "spatial_reasoning": "hybrid",
    "general_vqa_science_stem": "reasoning",
    "math_reasoning": "reasoning",
    "chart_figure_qa": "hybrid",
    "ocr": "vision",
}

CORRECT = 0.5
"""Least accuracy of a correct completion."""

FEWEST_CORRECT = 20
"""Fewest correct completions from which quantiles are taken."""


@dataclass(slots=True)
class Measured:
    """``N`` completions that the starting policy wrote for a task.

    Args:
        lengths: length of each, tokens.
        entropies: mean token entropy of each, nats, as the objective shapes it.
        accuracies: accuracy of each, from 0 to 1.
        truncated: True where the length limit ended it.
        problem_types: answer format of each.
    """

    lengths: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    problem_types: list[str] = field(default_factory=list)

    def of(self, values: Sequence[float], correct: bool) -> list[float]:
        """Select the values of correct or of wrong completions from one value per completion, ``N``."""
        return [v for v, accuracy in zip(values, self.accuracies, strict=True) if (accuracy >= CORRECT) == correct]

    @property
    def usual_problem_type(self) -> str:
        """Return the most frequent problem type."""
        return Counter(self.problem_types).most_common(1)[0][0]

    @property
    def mean_length(self) -> float:
        """Return the mean length, tokens."""
        return statistics.fmean(self.lengths)

    @property
    def mean_entropy(self) -> float:
        """Return the mean entropy over all tokens, as entropy shaping uses it, nats."""
        return statistics.fmean(self.entropies, weights=self.lengths)


def quantile(values: Sequence[float], q: float) -> float:
    """Compute a quantile of one or more values, with linear interpolation."""
    ordered = sorted(values)
    below, part = divmod(q * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low + part * (high - low)


def style_of(task: str, inferred: Style, given: dict[str, str]) -> Style:
    """Decide how a task should be answered: at length, with a look and a thought, or briefly.

    Args:
        inferred: style of its most frequent problem type.
        given: style by task name.

    Returns:
        The given style; else the paper's for its six tasks; else the inferred one.

    Raises:
        UserError: if the given style is unknown.
    """
    if task not in given:
        return PAPER_STYLES.get(task, inferred)
    known: tuple[Style, ...] = get_args(Style)
    if given[task] not in known:
        raise UserError(f"--styles.{task} is {given[task]!r}; it must be {', '.join(known[:-1])} or {known[-1]}")
    return next(style for style in known if style == given[task])


def propose_length(measured: Measured, style: Style, longest: int) -> LengthBand:
    """Propose a length band: the style's multiples of the mean length, with a plateau that correct completions reach.

    ``low`` is at most the upper quartile of the correct completions' lengths, and ``high`` at least the lower quartile.
    A plateau that no correct completion reaches would only distinguish wrong completions.

    Args:
        longest: longest completion, tokens.

    Returns:
        The band, in whole tokens.
    """
    start = measured.mean_length
    minimum, low, high, maximum = (longest if times is None else times * start for times in RATIOS[style])
    correct = measured.of(measured.lengths, correct=True)
    if len(correct) >= FEWEST_CORRECT:
        low, high = min(low, quantile(correct, 0.75)), max(high, quantile(correct, 0.25))
    high = min(high, longest)
    maximum = min(max(maximum, high), longest)
    low = min(low, high)
    return LengthBand(*(float(round(value)) for value in (min(minimum, low), low, high, maximum)))


def propose_entropy(measured: Measured) -> EntropyBand:
    """Propose an entropy band, nats: half to one and a half times the mean, widened to fit correct completions.

    The factors are the released code's 0.2 and 0.6 relative to their middle; the quartiles of correct completions widen
    the band if they are outside.
    """
    mean = measured.mean_entropy
    low, high = 0.5 * mean, 1.5 * mean
    correct = measured.of(measured.entropies, correct=True)
    if len(correct) >= FEWEST_CORRECT:
        low, high = min(low, quantile(correct, 0.25)), max(high, quantile(correct, 0.75))
    return EntropyBand(round(low, 3), round(high, 3))
