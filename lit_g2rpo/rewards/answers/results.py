"""Results: read the answer to a mathematics question, in the same way for answers and gold."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from lit_g2rpo.rewards.answers.final_form import operators
from lit_g2rpo.rewards.answers.notation import compact, is_balanced, is_words, normal_form
from lit_g2rpo.rewards.answers.numbers import number, percentage
from lit_g2rpo.rewards.answers.quantities import Quantity, in_parts, quantity
from lit_g2rpo.rewards.answers.units import NO_UNIT

MAX_RESULT_CHARACTERS = 512
MAX_ITEMS = 64

_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))? ([ap])m", re.ASCII)
_BETWEEN = re.compile(r"(?:between|from) (.{1,64}?) (?:and|to) (.{1,64})")
_RANGE = re.compile(
    r"([-+]?[$\u20ac\u00a3\u00a5\u20b9\u20a9]?[\d.,/]{1,32}(?:%| ?\\text\{ ?[A-Za-z]{1,12}\}| [A-Za-z]{1,12})?) ?"
    r"(?:-|\u2013|~| to |\\text\{to\}) ?([$\u20ac\u00a3\u00a5\u20b9\u20a9]?[\d.,/][^=]{0,64})",
    re.ASCII,
)
_FACTOR = re.compile(r"(-?(?:[\d./]{1,32}|\\frac\{\d{1,16}\}\{\d{1,16}\})?) ?(?=[(\[]?\\begin)", re.ASCII)
_SEPARATOR = re.compile(
    r"(?P<either>,? ?(?:\\text\{,? ?or\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\vee(?![A-Za-z])))|"
    r"(?P<comma>,? ?(?:\\text\{,? ?and\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\wedge(?![A-Za-z]))|[,;])|"
    r"(?P<open>\\\{|\\lbrace|\\langle|\\begin|[({\[])|(?P<close>\\\}|\\rangle|\\end|[)}\]])|\\[A-Za-z]+|\\.|."
)
_CELLS = re.compile(r"(?P<row>\\\\)|(?P<cell>&)|(?P<open>\\begin|[({\[])|(?P<close>\\end|[)}\]])|\\[A-Za-z]+|\\.|.")
_MATRIX = re.compile(
    r"(\(|\[|\||\\\{|)\\begin\{([A-Za-z]{5,11})\*?\}(?:\{[lcr|]{1,32}\})?(.*)\\end\{\2\*?\}(\)|\]|\||\\\}|)"
)
_RELATION = re.compile(
    r"[<>]|\\(?:le|ge|neq|in|subset|rightarrow|leftarrow|leftrightarrow|Rightarrow|Leftrightarrow|equiv)(?![a-z])"
)
_BOUNDS = re.compile(r"(.{1,64}?)(<|\\le(?![a-z])) ?[A-Za-z] ?(<|\\le(?![a-z]))(.{1,64})")
_DOWNWARD = re.compile(r"(>|\\ge(?![a-z]))")
_LABEL = re.compile(r"([A-Za-z]{1,20}|\((?:[A-Za-z], ?){1,9}[A-Za-z]\)) ?(?:=|\\in(?![a-z])) ?(?=[(\[|]|\\\{|\\begin)")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{7,}")
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_SIGNS = frozenset("%$\u20ac\u00a3\u00a5\u20b9\u20a9")
_EITHER_CLOSES = {")", "]"}


@dataclass(slots=True, frozen=True)
class Result:
    r"""A result that could be read.

    Args:
        form: the text in normal form.
        kind: ``words``; ``one`` number or formula with its unit; ``range``; ``time`` of day; ``list``, which includes
            intervals, sets and tuples; ``matrix``; ``equation``, any relation, which only algebra reads further.
        items: its numbers or formulas, one for ``one``.
        brackets: the brackets of a list: ``[)`` for a half-open interval, ``\{\}`` for a set, or nothing.
        columns: number of columns of a matrix.
        either: the list is joined by ``or``; in a gold answer these are alternatives.
    """

    form: str
    kind: Literal["words", "one", "range", "time", "list", "matrix", "equation"]
    items: tuple[Quantity, ...] = ()
    brackets: str = ""
    columns: int = 0
    either: bool = False


@lru_cache(8192)
def result(text: str) -> Result | None:
    """Read an answer or a gold answer.

    Returns:
        The result. None if the text is empty, too long, unbalanced or nested too deeply, opens a box, lacks a side of
        an equation, or is a sentence around a number.
    """
    if len(text) > MAX_RESULT_CHARACTERS:
        return None
    plain = number(text) if text.isascii() and text[:1] in "-+.0123456789" else None
    if plain is not None:
        form = text.strip()
        return Result(form, "one", (Quantity(form, value=plain, decimal=True),))
    form = normal_form(text)
    if not form or not is_balanced(form) or "\\boxed" in form or "#" in form:
        return None
    if is_words(form):
        return Result(form, "words")
    if parts := in_parts(form):
        return Result(form, "one", (parts,))
    label = _LABEL.match(form)
    bare = form[label.end() :] if label else form
    return _time(form) or _matrix(bare) or _range(form) or (label and _list(bare, True)) or _list(form) or _single(form)


def _single(form: str) -> Result | None:
    if _RELATION.search(_outside_brackets(form)):
        sides = _DOWNWARD.split(form)
        if len(sides) == 5:
            # 3 > x > -2 is compared in the order of its sides
            form = "".join({">": "<", "\\ge": "\\le "}.get(side.strip(), side) for side in reversed(sides))
        return Result(form, "equation")
    found = quantity(form)
    if found is None or _PROSE.search(found.body) or re.match(r"[A-Z][.)] ?\S", form):
        return None
    return Result(form, "one", (found,))


def interval(found: Result) -> Result | None:
    r"""Rewrite ``2 \le x < 5`` as an interval; an interval stays as it is, any other result gives None."""
    if found.kind == "list":
        return found if len(found.brackets) == 2 and len(found.items) == 2 else None
    bounds = _BOUNDS.fullmatch(found.form)
    low, high = (quantity(bounds[1].strip()), quantity(bounds[4].strip())) if bounds else (None, None)
    if bounds is None or low is None or high is None or low.value is None or high.value is None:
        return None
    return replace(found, kind="list", items=(low, high), brackets="(["[bounds[2] != "<"] + ")]"[bounds[3] != "<"])


def plain_number(text: str, decimal: bool = False) -> Fraction | None:
    """Read a text that is a single number, ignoring a percent or currency sign.

    Args:
        decimal: reject fractions and arithmetic, which may be dates in a text.

    Returns:
        Its exact value with scale words applied; None if the text is anything else.
    """
    plain = percentage(text)
    if plain is not None:
        return plain
    found = result(text) if any(mark.isdigit() for mark in text) else None
    if found is None or found.kind != "one":
        return None
    item = found.items[0]
    if item.value is None or item.unit is None or item.name or item.sides or (decimal and not item.decimal):
        return None
    if operators(item.body) or not _SIGNS.issuperset(name for name, _ in item.unit.dimension):
        return None
    return item.value * item.unit.scale


def _time(form: str) -> Result | None:
    found = _TIME.fullmatch(form)
    if found is None or not 1 <= int(found[1]) <= 12 or int(found[2]) > 59:
        return None
    minutes = int(found[1]) % 12 * 60 + int(found[2]) + 720 * (found[4] == "p")
    return Result(form, "time", (Quantity(form, value=minutes + Fraction(int(found[3] or 0), 60)),))


def _range(form: str) -> Result | None:
    found = _BETWEEN.fullmatch(form) or _RANGE.fullmatch(form)
    if found is None:
        return None
    low, high = quantity(found[1]), quantity(found[2])
    if low is None or high is None or low.value is None or high.value is None:
        return None
    if form[0] in _SIGNS and high.unit == NO_UNIT:
        high = replace(high, unit=low.unit)
    if low.unit is None or high.unit is None or (low.unit.dimension and low.unit.dimension != high.unit.dimension):
        return None
    return Result(form, "range", (low, high))


def _list(form: str, labelled: bool = False) -> Result | None:
    opener, inner, closer = _brackets(form)
    parts, either = split(inner)
    if not opener and (labelled or len(parts) == 1):
        return None
    if opener == "(" and closer == ")" and len(parts) == 1:
        return result(inner)
    items = [quantity(part) for part in parts] if inner else []
    if len(items) > MAX_ITEMS or not all(item and not _PROSE.search(item.body) for item in items):
        return None
    return Result(form, "list", tuple(item for item in items if item), opener + closer, either=either)


def split(form: str) -> tuple[list[str], bool]:
    """Split a normal form at commas, ``and`` and ``or`` outside of brackets.

    Returns:
        The parts, and whether an ``or`` was among the separators.
    """
    depth = start = 0
    either = False
    parts: list[str] = []
    for found in _SEPARATOR.finditer(form):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        if depth == 0 and found.lastgroup in ("comma", "either"):
            parts.append(form[start : found.start()].strip())
            start, either = found.end(), either or found.lastgroup == "either"
    return [*parts, form[start:].strip()], either


def _brackets(form: str) -> tuple[str, str, str]:
    """Split a text inside brackets into the opening bracket, the content and the closing bracket."""
    depth = 0
    for found in _SEPARATOR.finditer(form):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        if depth == 0:
            opener = next((mark for mark in _CLOSING if form.startswith(mark)), "")
            closer = found[0]
            matching = closer == _CLOSING.get(opener) or (opener in ("(", "[") and closer in _EITHER_CLOSES)
            if opener and matching and found.end() == len(form):
                return opener, form[len(opener) : found.start()].strip(), closer
            return "", form, ""
    return "", form, ""


def _outside_brackets(form: str) -> str:
    depth, kept = 0, []
    for found in _SEPARATOR.finditer(form):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        kept.append(found[0] if depth == 0 else " ")
    return "".join(kept)


def _matrix(form: str) -> Result | None:
    found = _MATRIX.fullmatch(compact(form))
    if found is None:
        factor = _FACTOR.match(form)
        return _multiplied(factor[1], form, _matrix(form[factor.end() :])) if factor and factor[1] else None
    rows: list[list[str]] = [[""]]
    depth = 0
    for piece in _CELLS.finditer(found[3]):
        depth += (piece.lastgroup == "open") - (piece.lastgroup == "close")
        if depth == 0 and piece.lastgroup == "row":
            rows.append([""])
        elif depth == 0 and piece.lastgroup == "cell":
            rows[-1].append("")
        else:
            rows[-1][-1] += piece[0]
    rows = [row for row in rows if row != [""]]
    items = [quantity(cell) for row in rows for cell in row]
    if not rows or len({len(row) for row in rows}) > 1 or len(items) > MAX_ITEMS or not all(items):
        return None
    system = found[2] == "cases" or (found[1] == "\\{" and not found[4])
    if system and len(rows[0]) == 1:
        return Result(form, "list", tuple(item for item in items if item))
    straight = found[2].lower() == "vmatrix" or found[1] == "|"
    brackets = "||" if straight else "cases" if system else ""
    return Result(form, "matrix", tuple(item for item in items if item), brackets, len(rows[0]))


def _multiplied(factor: str, form: str, matrix: Result | None) -> Result | None:
    """Multiply a matrix of numbers by the number before it."""
    times = quantity("-1" if factor == "-" else factor)
    if matrix is None or matrix.kind != "matrix" or matrix.brackets or times is None or times.value is None:
        return None
    if any(item.value is None or item.unit != NO_UNIT for item in matrix.items):
        return None
    values = [times.value * item.value for item in matrix.items if item.value is not None]
    items = (Quantity(str(value), value=value, decimal=value.denominator == 1) for value in values)
    return replace(matrix, form=form, items=tuple(items))
