"""Multiple choice: read which letter an answer names."""

import re
from collections.abc import Sequence
from functools import lru_cache

from lit_g2rpo.rewards.answers.notation import compact, normal_form
from lit_g2rpo.rewards.answers.results import plain_number
from lit_g2rpo.rewards.answers.text import fold

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_MARKUP = 64
"""How many characters longer an answer may be than the option text it names."""

_CLOSING = {"(": ")", "[": "]", "{": "}", "\\(": "\\)", "\\[": "\\]"}
_CLOSING |= dict(zip("\u201c\u2018\u300c\u300e\u3010\u3014", "\u201d\u2019\u300d\u300f\u3011\u3015", strict=True))
_MARKUP = (
    r"\*{1,3}|_{1,3}|`{1,3}|\${1,2}|\\[(\[]|<(?:b|i|u|em|strong|code|mark)>|[\"'\u201c\u2018\u300c\u300e]"
    r"|\\(?:text|math|boxed|fbox|mbox|emph|underline|bm|boldsymbol)[a-z]{0,6} ?\{"
)
_OPENING = re.compile(_MARKUP, re.IGNORECASE)
_OPENING_OF_LETTER = re.compile(rf"{_MARKUP}|[(\[{{\u3010\u3014]", re.IGNORECASE)
_BEHIND_LETTER = ".):;,\u3001\u3002"
_DASH = re.compile("[-=\u2013\u2014]{1,3} ?(?=.)")
_FULL_STOPS = (".", "\u3002")
_WORD = re.compile(r"[^\W\d_]{3,}")


def choice(text: str, options: Sequence[str]) -> str | None:
    r"""Read the letter an answer names.

    Accepts the letter, the letter with the text of its option, or the text of one option. Markup, brackets and quotes
    around them are ignored, and so is a punctuation mark after the letter: ``b``, ``(B)``, ``B.``, ``**B**``, ``[B]``,
    ``$B$``, ``\text{B}``, ``B) its text``. Other words are not: ``Option B`` and ``A or B`` name no option. A letter
    next to another option's text names two options, so it counts as none.

    A text is matched to the options in stages: exactly, then without markup, then also without blanks and in another
    notation, then in another case, then as a number. Two matches at one stage count as none. A lower-case letter that
    is an option's exact text names that option.

    Args:
        options: the options, each ``"A. text"``, in the order of their letters, or each with its own letter; empty if
            they are in the question.
    """
    answer, offered = fold(text), _offered(tuple(options))
    exact = [own for own, forms in offered.items() if forms[0] == answer]
    letter, rest = _head(answer)
    named = letter.upper() if letter.upper() in (offered or LETTERS) else ""
    if named and not rest and (letter == named or len(exact) != 1):
        return named
    if not exact and named and named in _same(rest, offered):
        # a capital after it is another letter, unless the text is that capital
        return None if rest in offered and rest != offered[named][0] else named
    found = exact or _same(answer, offered)
    return found[0] if len(found) == 1 else None


@lru_cache(4096)
def _offered(options: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the forms of each option's text, by letter."""
    split = [_own_letter(fold(option)) for option in options[: len(LETTERS)]]
    places = LETTERS[: len(options)]
    own = "".join(letter for letter, _ in split)
    if sorted(own) != list(places):
        split = [
            (place, text if letter == place else fold(option))
            for place, (letter, text), option in zip(places, split, options, strict=False)
        ]
    return {letter: _forms(text) for letter, text in split}


def _own_letter(option: str) -> tuple[str, str]:
    """Split off the letter that an option begins with, as in ``A. text`` or ``(A) text``, and its text."""
    inner = option.removeprefix("(").lstrip()
    if len(inner) < 2 or inner[0] not in LETTERS or inner[1] not in ".):":
        return "", option
    return inner[0], inner[2:].strip() or inner[0]


def _same(text: str, offered: dict[str, tuple[str, ...]]) -> list[str]:
    """Find the letters of the options that match this text, at the first stage with any match."""
    longest = max((len(forms[0]) for forms in offered.values()), default=-MAX_MARKUP)
    for stage, form in enumerate(_forms(text) if len(text) <= longest + MAX_MARKUP else ()):
        found = [letter for letter, forms in offered.items() if form and forms[stage] == form]
        if found:
            return found
    return []


def _forms(text: str) -> tuple[str, ...]:
    """Return the form of a text that each stage compares, empty if it has none."""
    plain = _without_markup(text)
    notation = compact(normal_form(plain))
    # next to digits, one or two letters are a unit or an element, and case distinguishes them
    digits = any(mark.isdigit() for mark in notation)
    caseless = _WORD.sub(lambda word: word[0].casefold(), notation) if digits else notation.casefold()
    value = plain_number(plain)
    return text, plain, notation, caseless, "" if value is None else str(value)


def _without_markup(text: str) -> str:
    before = None
    while text != before:
        before = text
        if text.endswith(_FULL_STOPS) and not text.endswith(".."):
            text = text[:-1].rstrip()
        opening = _OPENING.match(text)
        if opening is not None:
            closing, start = _closing(opening[0]), opening.end()
            inner = text[start : -len(closing)]
            if text.endswith(closing) and len(text) > start + len(closing) and closing not in inner:
                text = inner.strip()
    return text


def _head(text: str) -> tuple[str, str]:
    """Split off the letter that an answer begins with, if the markup and brackets around it are closed."""
    start, open_ = 0, list[str]()
    while opening := _OPENING_OF_LETTER.match(text, start):
        open_.append(_closing(opening[0]))
        start = opening.end() + (text[opening.end() : opening.end() + 1] == " ")
    letter, end = text[start : start + 1], start + 1
    if not letter or letter.upper() not in LETTERS:
        return "", ""
    while end < len(text):
        if open_ and text.startswith(open_[-1], end):
            end += len(open_.pop())
        elif text[end] in _BEHIND_LETTER or text[end] == " ":
            end += 1
        else:
            break
    rest = text[end:]
    if rest and end == start + 1:
        return "", ""
    if dash := _DASH.match(rest):
        rest = rest[dash.end() :]
    for closing in open_:
        rest = rest.removesuffix(".").rstrip()
        if not rest.endswith(closing):
            return "", ""
        rest = rest.removesuffix(closing).rstrip()
    return letter, rest[1:-1] if rest.startswith("(") and rest.endswith(")") else rest


def _closing(opening: str) -> str:
    if opening.startswith("<"):
        return f"</{opening[1:]}"
    if opening.startswith("\\") and opening.endswith("{"):
        return "}"
    return _CLOSING.get(opening, opening)
