"""How a mathematical result is written: one notation, and what is refused unread."""

import math
import re

from lit_g2rpo.rewards.answers.text import fold

MAX_DEPTH = 16
MAX_DIGITS = 5
"""Digits a power, or the argument of a factorial, may have before computing it is refused."""

_WRAPPERS = (
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}"), ("\\text{", "}"), ("\\mathrm{", "}"),
    ("\\textbf{", "}"), ("\\mathbf{", "}"), ("\\mbox{", "}"),
)  # fmt: skip
_REPLACED = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00b0", "^\\circ"), ("^{\\circ}", "^\\circ"), ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("\\displaystyle", ""), ("\\,", ""), ("\\!", ""),
    ("\\;", ""), ("\\%", "%"), ("\\$", ""), ("\\ ", " "), ("\u00b2", "^2"), ("\u00b3", "^3"), ("\u221a", "\\sqrt"),
    ("\u03c0", "\\pi "), ("\u00d7", "\\times "), ("\u00b7", "\\cdot "), ("\u00f7", "/"), ("\u221e", "\\infty "),
    ("\u00bd", "\\frac{1}{2}"), ("\u00bc", "\\frac{1}{4}"), ("\u00be", "\\frac{3}{4}"), ("\u2264", "\\le "),
    ("\u2265", "\\ge "), ("\u222a", "\\cup "), ("\u2229", "\\cap "), ("\u2208", "\\in "), ("**", "^"),
)  # fmt: skip
# LaTeX takes one digit where a hand that writes \sqrt10, x^-1 or sqrt(2) means all of it.
_ARGUMENTS = (
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?:\\|(?<![A-Za-z\\]))sqrt ?\(([^()]{1,64})\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt ?(\d{2,18})", re.ASCII), r"\\sqrt{\1}"),
    (re.compile(r"\^ ?(-\d{1,18}|\d{2,18})", re.ASCII), r"^{\1}"),
    (re.compile(r"\^ ?\(([^(){}]{1,64})\)"), r"^{\1}"),
)
_POWER = re.compile(r"\^[{( -]{0,8}(\d{1,400})", re.ASCII)
_TOWER = re.compile(r"\^[{( -]{0,8}(\d{1,18})[)} ]{0,8}\^[{( -]{0,8}(\d{1,18})", re.ASCII)
_FACTORIAL = re.compile(rf"\d{{{MAX_DIGITS},400}}[)}} ]{{0,8}}!|![)}} ]{{0,8}}!", re.ASCII)
_WORD = re.compile(r"[^\W\d_]{3}")


def normal_form(text: str) -> str:
    """Unify how a result is written: wrappers, spacing commands, signs and symbols, a final full stop."""
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
    for pattern, replacement in _ARGUMENTS:
        text = pattern.sub(replacement, text)
    if text.count("$") == 1:
        text = text.removeprefix("$")
    return " ".join(text.split())


def is_words(text: str) -> bool:
    """Tell a result in normal form that is a name or words, in which letters are no symbols to multiply.

    Returns:
        True for letters alone, and for words of three letters and more with marks between them.
    """
    if text.replace(" ", "").isalpha():
        return True
    return bool(_WORD.search(text)) and all(mark.isalpha() or mark in " ,.;:'\"-()" for mark in text)


def is_balanced(text: str) -> bool:
    """Tell whether braces close in order and brackets are as many as they should be; ``[0, 1)`` is balanced.

    Returns:
        False for a result that would leave the box it is put into, and for one nested beyond ``MAX_DEPTH``.
    """
    braces = brackets = 0
    for mark in text.replace("\\{", "").replace("\\}", ""):
        braces += (mark == "{") - (mark == "}")
        brackets += (mark in "([") - (mark in ")]")
        if braces < 0 or brackets < 0 or braces + brackets > MAX_DEPTH:
            return False
    return braces == brackets == 0


def is_explosive(text: str) -> bool:
    """Tell a result whose computation would take numbers too long for a final result, ``9^9^9`` or ``99999999!``.

    Returns:
        True if a power has more than ``MAX_DIGITS - 1`` digits, written out or as a power itself, or a factorial's
        argument has.
    """
    if _FACTORIAL.search(text) or any(len(power) >= MAX_DIGITS for power in _POWER.findall(text)):
        return True
    towers = ((int(base), int(power)) for base, power in _TOWER.findall(text))
    return any(base > 1 and power * math.log10(base) >= MAX_DIGITS for base, power in towers)
