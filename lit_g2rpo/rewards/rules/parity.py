"""The rules of the reward released with OpenVLThinkerV2 that differ from this project's."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction

from rapidfuzz.distance import Levenshtein

from lit_g2rpo.rewards.rules.tracking import Track

STRUCTURE = 0.5


def structure_reward(read: Callable[[str], Track | None] | None, answer: str, gold: str, readable: bool) -> float:
    """Return the bonus, from 0 to 0.5, for an answer with valid structure, whatever its content.

    It is 0.5 for every readable structured answer and for every answer of the other types. Half of a track's bonus is
    scaled by the fraction of gold seconds that it names.

    Args:
        read: reads a track, if the problem type asks for one.
        readable: the answer has the form of its problem type, or the type requires none.

    Source: OneThinker (arXiv 2512.03043), as released with OpenVLThinkerV2.
    """
    if not readable:
        return 0.0
    if read is None:
        return STRUCTURE
    named, wanted = read(answer), read(gold)
    if named is None or wanted is None:
        return 0.0
    seconds = {second for second, box in named.items() if box is not None}
    return STRUCTURE / 2 * (1 + len(seconds & wanted.keys()) / len(wanted))


def word_accuracy(answer: str, gold: str) -> float:
    """Score a transcription by ``max(0, 1 - WER)``, where WER is the edit distance in words per gold word."""
    a, g = answer.split(), gold.split()
    return max(0.0, 1.0 - Levenshtein.distance(a, g) / len(g)) if a and g else 0.0


def rounded_numbers_agree(answer: Fraction, gold: Fraction) -> bool:
    """Compare two numbers rounded to two decimals: 0.001 equals 0.004, but 123456.78 does not equal 123456.79."""
    return round(_double(answer), 2) == round(_double(gold), 2)


def single_precision_accuracy(answer: Fraction, gold: Fraction) -> float:
    """Return mean relative accuracy in single precision: an error of 0.1 passes nine thresholds, not eight.

    Args:
        gold: the gold value; only 0 matches 0.
    """
    a, g = _single(_double(answer)), _single(_double(gold))
    error = _single(_single(abs(_single(a - g))) / _single(abs(g) + _single(1e-8)))
    thresholds = [_single(0.5 + 0.05 * k) for k in range(10)]
    return sum(error < 1 - threshold for threshold in thresholds) / 10


def _double(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _single(value: float) -> float:
    # rounding a double result of + - * / once more to single precision gives the single-precision result
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf if value > 0 else -math.inf
