"""Units: read the text after a number as a whole or not at all."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from lit_g2rpo.rewards.answers.unit_table import CHINESE, IGNORED, SCALES, UNITS, Entry

MAX_UNIT_CHARACTERS = 64
MAX_POWER = 9

_AREAS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS = {"squared": 2, "cubed": 3}
PIECE = (
    r"\\text\{(?:[^{}]|\{[^{}]*\})*\}|\\mu ?[A-Za-z]+|\\Omega|\^\\circ ?(?:[CF](?![A-Za-z]))?|"
    r"[A-Za-z]+\.?|[%$\u20ac\u00a3\u00a5\u20b9\u20a9\u00a2\u00c5]|[\u4e00-\u9fff]+"
)
"""Regular expression for one word of a unit."""
JOINT = r"/|\\cdot ?|\*|\^\{-?\d\}|[ ()]"
"""Regular expression for the text between words of a unit."""
_TEXT = re.compile(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}")
_TOKEN = re.compile(rf"\^\{{?(?P<power>-?\d)\}}?|(?P<over>/|per\b)|(?P<blank>\\cdot ?|\*|[ ()])|(?P<word>{PIECE})")
_DEGREES = re.compile(r"(?<![A-Za-z])[Dd]eg(?:ree)?s? ([CF])(?:elsius|ahrenheit)?(?![A-Za-z])")
_CHINESE = re.compile("|".join(CHINESE))


@dataclass(slots=True, frozen=True)
class Unit:
    """A unit after a number.

    Args:
        scale: factor of the scale words, such as 1000 for ``thousand``.
        size: size of the unit in base units.
        dimension: powers of the base units, sorted; empty if there are only scale words.
    """

    scale: Fraction
    size: Fraction
    dimension: tuple[tuple[str, int], ...]


NO_UNIT = Unit(Fraction(1), Fraction(1), ())


@lru_cache(4096)
def unit(text: str) -> Unit | None:
    r"""Read a unit in normal form: ``million dollars``, ``sq. cm``, ``\text{m/s^2}``, ``meters per second``.

    Returns:
        The unit, `NO_UNIT` for ``units``; None if any part is not a unit.
    """
    if len(text) > MAX_UNIT_CHARACTERS:
        return None
    scale = size = Fraction(1)
    powers: Counter[str] = Counter()
    sign, area, last = 1, 1, None
    kind = ""
    for kind, word in _words(_plain(text)):
        if kind == "power":
            if last is None:
                return None
            # the unit has already been counted once
            size, last = size * _raise(powers, last, (int(word) - 1) * sign), None
        elif kind == "over":
            sign = -1
        elif word in _AREAS:
            area = _AREAS[word]
        elif kind == "word" and word in SCALES and not powers:
            scale *= SCALES[word]
        elif not (last and word in IGNORED):
            last = UNITS.get(word)
            if last is None or word in IGNORED:
                return None
            size, area = size * _raise(powers, last, sign * area), 1
    powers.pop("", None)
    if area != 1 or kind == "over":
        return None
    return Unit(scale, size, tuple(sorted((name, power) for name, power in powers.items() if power)))


def _plain(text: str) -> str:
    return _DEGREES.sub(r"^\\circ\1", _TEXT.sub(r" \1 ", text).replace("per cent", "percent"))


def _raise(powers: Counter[str], entry: Entry, power: int) -> Fraction:
    for name, exponent in entry[1].items():
        powers[name] += exponent * power
    return Fraction(entry[0] ** power)


def _words(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            yield "word", ""
            return
        at = found.end()
        kind, word = found.lastgroup or "", found[0]
        if kind == "power":
            yield kind, found["power"]
        elif word[0] >= "\u4e00" and kind == "word":
            yield from _chinese(word)
        elif kind == "word":
            plain = _known(word.rstrip("."))
            yield ("power", str(_POWERS[plain])) if plain in _POWERS else (kind, plain)
        elif kind == "over":
            yield kind, word


def _chinese(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    for found in _CHINESE.finditer(text):
        if found.start() != at:
            break
        at = found.end()
        yield "word", CHINESE[found[0]]
    if at != len(text):
        yield "word", ""


def _known(word: str) -> str:
    """Return the spelling used in the tables: 5 M is not 5 m, but 5 Cm is 5 cm and 5 Meters are 5 m."""
    word = word.replace("^\\circ ", "^\\circ").replace("\\mu", "\\mu ").replace("  ", " ")
    low = word.casefold()
    spellings = (word,) if len(word) == 1 else (word, low, low.removesuffix("s"), low.removesuffix("es"))
    known = (UNITS, SCALES, _AREAS, _POWERS, IGNORED)
    return next((spelling for spelling in spellings if any(spelling in names for names in known)), word)
