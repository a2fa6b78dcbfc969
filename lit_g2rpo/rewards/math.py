"""Mathematics: equality of final results that needs no computer algebra."""

import re
from fractions import Fraction

from lit_g2rpo.rewards.numbers import number
from lit_g2rpo.rewards.text import fold

MAX_CHARACTERS = 512
FRACTION_TOLERANCE = Fraction(1, 10**6)
"""Relative error allowed between a fraction and a decimal that approximates it."""

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}"), ("\\text{", "}"))
_REPLACED = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00b0", "^\\circ"), ("^{\\circ}", "^\\circ"), ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("\\displaystyle", ""), ("\\,", ""), ("\\!", ""),
    ("\\;", ""), ("\\%", "%"), ("\\ ", " "),
)  # fmt: skip
_MIXED = re.compile(r"([+-]?\d{1,18}) ?\\frac|([+-]?\d{1,18}) (\d{1,18}/)", re.ASCII)
_FRAC = re.compile(r"([+-]?)(?:\\frac\{([^{}]{1,64})\}\{([^{}]{1,64})\}|\\frac(\d)(\d))", re.ASCII)
_SLASH = re.compile(r"([+-]?[\d.]{1,64}) ?/ ?([\d.]{1,64})", re.ASCII)


def normal_form(text: str) -> str:
    """Unifies how a result is written: wrappers, spacing commands, minus signs, a final full stop.

    Args:
        text: a result, plain or LaTeX.

    Returns:
        The normal form, single spaces kept.
    """
    text = fold(text)
    for old, new in _REPLACED:
        if old in text:
            text = text.replace(old, new)
    text = text.strip().removesuffix(".").strip()
    unwrapped = True
    while unwrapped:
        unwrapped = False
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            if inner and text.startswith(start) and text.endswith(end) and start[-1] not in inner and end not in inner:
                text, unwrapped = inner.strip(), True
    return " ".join(text.split())


def results_agree(answer: str, gold: str) -> bool:
    """Compares two final results: as text without blanks, then as numbers and fractions.

    Words are compared as words, whatever their case; units and per cent signs must be the same on both sides.

    Args:
        answer: the answer.
        gold: the gold result.

    Returns:
        True if they agree; False if that cannot be seen without algebra.
    """
    if len(answer) > MAX_CHARACTERS or len(gold) > MAX_CHARACTERS:
        return False
    answer, gold = normal_form(answer), normal_form(gold)
    a, g = answer.replace(" ", ""), gold.replace(" ", "")
    if not a or a == g:
        return bool(a)
    if g.isalpha():
        return len(g) > 1 and a.casefold() == g.casefold()
    for unit in ("%", "^\\circ"):
        if answer.endswith(unit) and gold.endswith(unit):
            answer, gold = answer.removesuffix(unit).strip(), gold.removesuffix(unit).strip()
    return _values_agree(answer, gold)


def _values_agree(answer: str, gold: str) -> bool:
    a, g = _value(answer), _value(gold)
    if a is None or g is None:
        return False
    if a[1] == g[1]:
        return a[0] == g[0]
    return abs(a[0] - g[0]) <= FRACTION_TOLERANCE * abs(g[0])


def _value(text: str) -> tuple[Fraction, bool] | None:
    """Reads a number, fraction or mixed number; the flag is True for one written as a fraction."""
    plain = number(text)
    if plain is not None:
        return plain, False
    mixed = _MIXED.match(text)
    if mixed:
        whole = mixed[1] or mixed[2]
        part = _ratio(text[len(whole) :].lstrip())
        if part is None or not 0 <= part < 1:
            return None
        return int(whole) + (-part if whole.startswith("-") else part), True
    ratio = _ratio(text)
    return None if ratio is None else (ratio, True)


def _ratio(text: str) -> Fraction | None:
    frac, slash = _FRAC.fullmatch(text), _SLASH.fullmatch(text)
    if frac:
        top, bottom = number(frac[2] or frac[4]), number(frac[3] or frac[5])
        sign = -1 if frac[1] == "-" else 1
    elif slash:
        top, bottom, sign = number(slash[1]), number(slash[2]), 1
    else:
        return None
    return sign * top / bottom if top is not None and bottom else None
