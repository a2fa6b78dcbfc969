"""Charts: an answer read from a figure, either a number to within 5 % or a text."""

from fractions import Fraction

from lit_g2rpo.rewards.answers.results import plain_number
from lit_g2rpo.rewards.answers.text import fold

READING_TOLERANCE = Fraction(5, 100)
YEARS = range(1800, 2101)
"""Whole numbers that are most likely years: 1950 is not 2010, though within 5 %."""


def chart_answers_agree(answer: str, gold: str) -> bool:
    """Compare an answer with gold: numbers to within 5 %, anything else as text without case and a final period.

    Stricter than the relaxed accuracy that benchmarks report: years must be exact, and 12% is 12 but not 0.12.

    Source: relaxed accuracy of ChartQA (arXiv 2203.10244), made strict where it can be gamed.
    """
    a, g = plain_number(answer, decimal=True), plain_number(gold, decimal=True)
    if a is not None and g is not None:
        exact = g.denominator == 1 and int(g) in YEARS
        return a == g if exact else abs(a - g) <= READING_TOLERANCE * abs(g)
    text = _plain(answer)
    return bool(text) and text == _plain(gold)


def _plain(text: str) -> str:
    return fold(text).removesuffix(".").strip().casefold()
