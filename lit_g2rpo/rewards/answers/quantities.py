"""Numbers as a result states them: fractions, mixed numbers, plain arithmetic, and units."""

import re
from dataclasses import dataclass
from fractions import Fraction

from lit_g2rpo.rewards.answers.arithmetic import arithmetic
from lit_g2rpo.rewards.answers.numbers import number

FRACTION_TOLERANCE = Fraction(1, 10**6)
"""Relative error allowed between a fraction and a decimal that approximates it."""

FACTORS = {"%", "percent", "dozen", "hundred", "thousand", "million", "billion", "trillion", "squared", "cubed", "time"}
"""Words behind a number that change its value."""

_MIXED = re.compile(r"([+-]?\d{1,18}) ?\\frac|([+-]?\d{1,18}) (\d{1,18}/)", re.ASCII)
_FRAC = re.compile(r"([+-]?)(?:\\frac\{([^{}]{1,64})\}\{([^{}]{1,64})\}|\\frac(\d)(\d))", re.ASCII)
_NAME = re.compile(r"([A-Za-z]|\\[A-Za-z]{2,10}) ?= ?(?=[^=])")
_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|textrm|mbox|operatorname)\{ ?([A-Za-z][A-Za-z ./]{0,30})\}|(?<![A-Za-z\\])([A-Za-z./]{1,16}))"
    r"( ?\^ ?\{?[23]\}?)?$"
)
_KNOWN = {
    spelling: unit
    for unit, spellings in {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
        "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
        "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "", "month": "", "year": "yr",
        "mg": "milligram", "g": "gram", "kg": "kilogram", "lb": "pound lbs", "oz": "ounce",
        "mL": "ml milliliter millilitre", "L": "l liter litre", "km/h": "kmh kph", "m/s": "", "mph": "",
        "rad": "radian", "deg": "degree", "dollar": "usd", "cent": "", "N": "newton", "J": "joule", "W": "watt",
        "V": "volt", "Hz": "hertz", "Pa": "pascal",
    }.items()
    for spelling in (unit, *spellings.split())
}  # fmt: skip


@dataclass(slots=True, frozen=True)
class Quantity:
    """A result taken apart.

    Args:
        name: what stands before a single equals sign, as x in ``x = 5``; empty without one.
        body: the result without name and unit.
        unit: its unit or counted word in one spelling, a square or cube included, ``%`` too; empty without one.
    """

    name: str
    body: str
    unit: str


def quantity(text: str) -> Quantity:
    """Take a result in normal form apart into name, body and unit; a trailing word is a unit only behind a number."""
    found = _NAME.match(text)
    name = found[1] if found else ""
    body = text[found.end() :] if found else text
    for sign, unit in (("%", "%"), ("^\\circ", "deg")):
        if body.endswith(sign):
            return Quantity(name, body.removesuffix(sign).strip(), unit)
    match = _UNIT.search(body)
    rest = body[: match.start()].strip() if match else ""
    if match is None or value(rest) is None:
        return Quantity(name, body, "")
    word = " ".join((match[1] or match[2]).split()).rstrip(".")
    # 5 M is not 5 m, but 5 Cm is 5 cm and 5 Meters are 5 m
    spellings = (word,) if len(word) == 1 else (word, word.casefold(), word.casefold().removesuffix("s"))
    unit = next((_KNOWN[spelling] for spelling in spellings if spelling in _KNOWN), "")
    if not unit and match[2] and (len(word) < 3 or body[match.start() - 1] != " "):
        # 24ab is a product
        return Quantity(name, body, "")
    power = next((mark for mark in match[3] or "" if mark in "23"), "")
    return Quantity(name, rest, (unit or spellings[-1]) + power)


def units_agree(answer: str, gold: str) -> bool:
    """Compare units; one that stands on one side only is passed over, unless it changes the value."""
    return answer == gold or (not (answer and gold) and answer + gold not in FACTORS)


def value(text: str) -> tuple[Fraction, bool] | None:
    """Read a number, fraction, mixed number or plain arithmetic from a normal form without name and unit.

    Returns:
        Its exact value, and True if it is not written as one decimal number; None if it is none of these.
    """
    plain = number(text)
    if plain is not None:
        return plain, False
    mixed = _MIXED.match(text)
    if mixed:
        whole = mixed[1] or mixed[2]
        part = arithmetic(_slashes(text[len(whole) :].lstrip()))
        if part is None or not 0 <= part < 1:
            return None
        return int(whole) + (-part if whole.startswith("-") else part), True
    sides = [arithmetic(_slashes(side)) for side in text.split("=")]
    # 12 + 12 = 24 is the value of both sides, and 6 = 7 is none
    return (sides[0], True) if sides[0] is not None and all(side == sides[0] for side in sides) else None


def values_agree(answer: tuple[Fraction, bool], gold: tuple[Fraction, bool]) -> bool:
    """Compare two results of `value`, exactly if both are written alike, a fraction with a decimal to one in 10**6."""
    if answer[1] == gold[1]:
        return answer[0] == gold[0]
    return abs(answer[0] - gold[0]) <= FRACTION_TOLERANCE * abs(gold[0])


def _slashes(text: str) -> str:
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    return _FRAC.sub(lambda m: f"{m[1]}(({m[2] or m[4]})/({m[3] or m[5]}))", text)
