"""Quantities: one number or formula with its name and unit."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from lit_g2rpo.rewards.answers.arithmetic import arithmetic
from lit_g2rpo.rewards.answers.notation import compact
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.units import JOINT, NO_UNIT, PIECE, Unit, unit

FRACTION_TOLERANCE = Fraction(1, 10**6)
"""Relative error allowed between a fraction and a decimal that approximates it, and between two units."""

_MONEY = re.compile(
    r"([+-]?) ?(US ?\$|HK ?\$|[$\u20ac\u00a3\u00a5\u20b9\u20a9]|USD|EUR|GBP|CNY|RMB|JPY|INR|Rs\.?)(?![A-Za-z]) ?"
    r"(?=[-+]?[\d.\\])"
)
_PIECES = re.compile(rf"(?P<word>{PIECE})|(?P<joint>{JOINT})|(?P<other>\\[A-Za-z]+|\\.|.)", re.DOTALL)
_DECIMAL = re.compile(r"[-+]?[\d.]+(?:\\times|\\cdot|\*|x)?10\^\{-?\+?\d{1,3}\}", re.ASCII)
_TIMES = re.compile(r"(?<=[\d.]) ?[xX] ?(?=10 ?\^)", re.ASCII)
_EQUALS = re.compile(r"(?P<equals>(?<![<>:])(?<! !)=|\\approx(?![a-z]))|(?P<open>[({\[])|(?P<close>[)}\]])")
_NAME = re.compile(
    r"(?:[A-Za-z]{1,20}|\\[A-Za-z]{2,10}(?: ?[A-Z]{1,4})?|\\(?:text|overline|vec)\{[^{}]{1,40}\}|\|[A-Z]{2}\|)"
    r"(?:_\{[^{}]{1,20}\})?'?(?:\([^()]{1,40}\))?"
)
_PARTS = re.compile(r"(\d+(?:\.\d+)?) ?((?:[A-Za-z]{1,12}|\\text\{[A-Za-z]{1,12}\})\.?) ?(?:and )?", re.ASCII)
_SUM = re.compile(r"[^\s^{(]\s*[-+]")
_IN_BRACKETS = re.compile(r"(.*[\d}]) [(\[]([A-Za-z\\\\][^()\[\]]{1,39})[)\]]")
_PLAIN_WORD = re.compile(r"\\text|[A-Za-z]{3}")
_MAX_WORDS = 3
NO_NOUNS = frozenset(
    str.split(
        "a about above almost an and any approx approximately around at below but except fewer from greater "
        "if is isn't least less maybe minus more most negative neither no none nor not of or otherwise over "
        "per perhaps plus possibly probably roughly sometimes than that the then times to under unless up was "
        "wrong"
    )
)
"""Words after a number that do not name what it counts."""


@dataclass(slots=True, frozen=True)
class Quantity:
    r"""A result split into its parts.

    Args:
        body: the result without name, unit and meaningless blanks.
        name: the text before the first equals sign, as x in ``x = 5``; empty without one.
        sides: the sides between the first and the last of a chain, and the first if it is not a name.
        unit: the unit after the number; None if the words there are not a unit.
        words: these words.
        sure: the unit cannot be read as a symbol: the m of ``5 m``, not that of ``5m``.
        value: the exact value of the body, without scale; None if it is not a number.
        decimal: the body is written as one decimal number or as ``a \times 10^{n}``.
    """

    body: str
    name: str = ""
    sides: tuple[str, ...] = ()
    unit: Unit | None = NO_UNIT
    words: str = ""
    sure: bool = True
    value: Fraction | None = None
    decimal: bool = False


def quantity(form: str) -> Quantity | None:
    """Split a result in normal form into its parts.

    Returns:
        Name, body and unit; None for an equation with an empty side.
    """
    plain = number(form)
    if plain is not None:
        return Quantity(form, value=plain, decimal=True)
    first, *others = _sides(form)
    if not others:
        return _one(first)
    if not first and len(others) == 1 and form.startswith("\\approx"):
        return _one(others[0])
    if not all((first, *others)):
        return None
    if len(others) == 1 and is_name(others[0]) and not is_name(first):
        # 3 = x
        first, others = others[0], [first]
    last = _one(others[-1])
    named = _NAME.fullmatch(first) is not None
    return replace(last, name=first, sides=tuple(others[:-1]) if named else (first, *others[:-1]))


def _sides(form: str) -> list[str]:
    """Split at the equals signs outside of braces and brackets."""
    depth = start = 0
    sides: list[str] = []
    for found in _EQUALS.finditer(form):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        if found.lastgroup == "equals" and depth == 0:
            sides.append(form[start : found.start()].strip())
            start = found.end()
    return [*sides, form[start:].strip()]


def is_name(side: str) -> bool:
    """Return whether a side of an equation only names the other side."""
    return _NAME.fullmatch(side) is not None


def units_agree(a: Quantity, g: Quantity, question: str = "") -> bool:
    """Compare the units or words after two results.

    Units of one dimension agree, and a unit that only one side has is ignored, unless it is a share such as percent.
    Counted words agree with the same words; they are ignored in gold, and in an answer if the question has them.
    """
    if a.unit is None or g.unit is None:
        return _nouns_agree(a, g, question)
    if a.unit.dimension == g.unit.dimension:
        return True
    only = a.unit.dimension or g.unit.dimension
    one_sided = not (a.unit.dimension and g.unit.dimension)
    return one_sided and only[0][0] != "%" and (a if a.unit.dimension else g).sure


def values_agree(a: Quantity, g: Quantity) -> bool:
    """Compare two values with their units: exactly, or to 1e-6 for a decimal against a fraction or another unit."""
    assert a.value is not None
    assert g.value is not None
    ours, theirs = a.unit or NO_UNIT, g.unit or NO_UNIT
    answer, gold = a.value * ours.scale, g.value * theirs.scale
    converted = ours.dimension == theirs.dimension and ours.size != theirs.size
    if converted:
        answer, gold = answer * ours.size, gold * theirs.size
    if converted or (a.decimal != g.decimal and g.value.denominator != 1):
        return abs(answer - gold) <= FRACTION_TOLERANCE * abs(gold)
    return answer == gold


def in_parts(form: str) -> Quantity | None:
    """Read a quantity in several units of one dimension, the largest first: ``3 hours and 20 minutes``.

    Returns:
        The quantity in the last of its units; None if the text is anything else.
    """
    parts = _PARTS.findall(form) if _PARTS.sub("", form) == "" else []
    units = [unit(word) for _, word in parts]
    sizes = [found.size for found in units if found and found.scale == 1 and found.dimension]
    last = units[-1] if len(units) > 1 else None
    if last is None or len(sizes) < len(units) or {found and found.dimension for found in units} != {last.dimension}:
        return None
    if any(small >= large for large, small in pairwise(sizes)):
        return None
    value = sum((Fraction(part) * size for (part, _), size in zip(parts, sizes, strict=True)), Fraction(0)) / last.size
    return Quantity(str(value), unit=last, value=value)


def _one(form: str) -> Quantity:
    money = _MONEY.match(form)
    if money:
        currency = unit("$" if money[2].endswith("$") else money[2])
        rest = _split(money[1] + form[money.end() :])
        if rest.value is not None and rest.unit is not None and not rest.unit.dimension and currency:
            return replace(rest, unit=Unit(rest.unit.scale, currency.size, currency.dimension), sure=True)
    return _split(form)


def _split(form: str) -> Quantity:
    form = _TIMES.sub("\\\\times", form)
    bracketed = _IN_BRACKETS.fullmatch(form)
    if bracketed and (found := unit(bracketed[2])) and found.dimension:
        form = f"{bracketed[1]} {bracketed[2]}"
    whole = _valued(form)
    if whole.value is not None:
        return whole
    if parts := in_parts(form):
        return parts
    starts, rest = _tail(form)
    for start in starts:
        found = unit(form[start:])
        body = form[:start].strip()
        if found is not None and body and body[-1] not in "+-*/=^_(,<>":
            read = _valued(body)
            letters = form[start:].strip()
            attached = form[start - 1] != " " or body.startswith("\\") or read.value is None
            # the r of 2\pi r, and the degrees inside a sine
            if attached and len(letters) < 2 and _SUM.search(body):
                # the m of 3+2m
                continue
            if read.value is None and ((attached and len(letters) < 2) or (letters[0] == "^" and "\\" in body)):
                continue
            return replace(
                read, unit=found, sure=not (attached and len(letters) == 1 and letters.isascii() and letters.isalpha())
            )
    body, words = form[:rest].strip(), form[rest:].strip()
    read = _valued(body)
    if read.value is not None and _PLAIN_WORD.search(words) and (form[rest - 1] == " " or "\\text" in words):
        return replace(read, unit=None, words=words)
    return whole


def _tail(form: str) -> tuple[list[int], int]:
    """Return where words of a unit may begin, and where the tail made only of such words begins."""
    starts: list[int] = []
    for piece in _PIECES.finditer(form):
        if piece.lastgroup == "other":
            starts = []
        elif piece.lastgroup == "word":
            starts.append(piece.start())
    return starts[:8], starts[0] if starts else len(form)


def _valued(body: str) -> Quantity:
    short = compact(body)
    plain = number(short)
    if plain is not None:
        return Quantity(short, value=plain, decimal=True)
    exact = arithmetic(short) if any(mark.isdigit() for mark in short) else None
    return Quantity(short, value=exact, decimal=exact is not None and _DECIMAL.fullmatch(short) is not None)


def _nouns_agree(a: Quantity, g: Quantity, question: str) -> bool:
    ours, theirs = _nouns(a.words), _nouns(g.words)
    if a.unit is None and g.unit is None:
        return ours == theirs
    if a.unit is not None:
        return a.unit is NO_UNIT
    if g.unit is not NO_UNIT or not ours or len(ours) > _MAX_WORDS or NO_NOUNS & set(ours):
        return False
    return set(ours) <= set(_nouns(question))


def _nouns(words: str) -> tuple[str, ...]:
    found = re.findall(r"[^\W\d_]{2,40}", words.replace("\\text", " ").casefold())
    return tuple(word.removesuffix("s") for word in found)
