"""Numbers: strict reading as exact fractions, equality, and counts."""

import re
from fractions import Fraction

from lit_g2rpo.rewards.answers.notation import normal_form
from lit_g2rpo.rewards.answers.text import fold

MAX_NUMBER_CHARACTERS = 64
MAX_EXPONENT = 308
DECIMALS_TOLERANCE = Fraction(5, 1000)
RELATIVE_TOLERANCE = Fraction(1, 100)

# Every unbounded run is fenced by a literal, so matching is linear. float() would accept "nan" and "1_000".
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(\.\d*)?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_MINUS = str.maketrans("\u2212\u2013\ufe63", "---")


def number(text: str) -> Fraction | None:
    """Read a plain decimal number, which may have a sign, correctly placed thousands commas and an exponent.

    Returns:
        Its exact value; None if the text is anything else or beyond the range of a double.
    """
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    found = _NUMBER.fullmatch((text if text.isascii() else fold(text)).translate(_MINUS).strip())
    if found is None:
        return None
    sign, whole, decimals, exponent = found.groups()
    power = int(exponent or 0)
    digits = whole.replace(",", "") + (decimals or ".")[1:]
    if abs(power) > MAX_EXPONENT or not digits:
        return None
    power -= len(decimals or ".") - 1
    value = int(digits) * (-1 if sign == "-" else 1)
    return Fraction(value * 10**power) if power >= 0 else Fraction(value, 10**-power)


def marked_number(text: str) -> Fraction | None:
    """Read a number as `number` does, ignoring a final period and markup such as ``**7**`` or ``$7$``."""
    value = number(text)
    return number(normal_form(text)) if value is None and len(text) <= MAX_NUMBER_CHARACTERS else value


def percentage(text: str) -> Fraction | None:
    """Read a number with or without a percent sign: 12% and 12 are the same answer to "what percentage"."""
    return number(fold(text).removesuffix("%"))


def numbers_agree(answer: Fraction, gold: Fraction) -> bool:
    """Compare a number with gold: an integer exactly, a decimal to within 0.005, a small decimal to within 1 %."""
    if gold.denominator == 1:
        return answer == gold
    return abs(answer - gold) <= min(DECIMALS_TOLERANCE, RELATIVE_TOLERANCE * abs(gold))


def count(text: str) -> int | None:
    """Read a count, ignoring markup: a whole number in digits, or an English word from zero to twenty."""
    value = marked_number(text)
    if value is not None:
        return int(value) if value.denominator == 1 and value >= 0 else None
    word = normal_form(text).casefold() if len(text) <= MAX_NUMBER_CHARACTERS else ""
    return _WORDS.index(word) if word in _WORDS else None


def count_reward(answer: int, gold: int, dense: bool = False) -> float:
    """Score a count: 1 if it is right, else 0.

    Args:
        dense: give a wrong count ``max(0, 1 - error / max(gold, 1))`` instead.
    """
    if dense:
        scale = gold or 1
        return 1.0 - min(abs(answer - gold), scale) / scale
    return float(answer == gold)
