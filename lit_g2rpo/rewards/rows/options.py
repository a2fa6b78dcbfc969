"""Options of a row: their letters, and letters listed in the question itself."""

import re
from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.values import listed, missing, shown

_LETTER = re.compile(
    r"\s*(?:\(([A-Za-z])\)|([A-Za-z]))(?:[.):\u3001\uff0e\uff1a]?|[.):\u3001\uff0e\uff1a ](.+))\s*", re.DOTALL
)
# letters of options in a question: "A. red", "(a) red"; and "A red" if other letters look the same
_MARKED = re.compile(r"(?<!\w)([A-Za-z])[.):\]\u3001\uff0e\uff1a]")
_STANDING = re.compile(r"(?<!\w)([A-Z])(?=\s+\S)")


def given_options(row: Mapping[str, Any]) -> Any:
    """Find the options of a row: a list, texts by letter, or any other value; None if there are none.

    They may be written as text, one per line, or one per column as in VLMEvalKit's tables.
    """
    given = row.get("options", row.get("choices"))
    if given is None and "A" in row and "B" in row:
        given = {letter: str(row[letter]) for letter in "ABCDEFGH" if not missing(row.get(letter))}
    given = listed(from_text(given))
    return _lines(given) if isinstance(given, str) else given


def lettered(options: Any) -> list[str]:
    """Put a letter before each option that has none.

    Args:
        options: a list of texts, texts by letter, or None.

    Returns:
        The options, each ``"A. text"``; unchanged if one already begins with the letter of its position.

    Raises:
        ValueError: if they are anything else, or more than the letters of the alphabet.
    """
    if isinstance(options, Mapping):
        given = {letter: text for letter, text in options.items() if not missing(text)}
        if not all(isinstance(text, str) for text in given.values()):
            raise ValueError(f"'options' is {shown(options)}; it must hold a text for each letter")
        options = [f"{str(letter).upper()}. {text}" for letter, text in given.items()]
    if options is None:
        return []
    if not isinstance(options, list):
        raise ValueError(f"'options' is {shown(options)}; it must be a list of texts")
    for number, option in enumerate(options, 1):
        if not isinstance(option, str):
            raise ValueError(f"'options' is {shown(options)}; it must be a list of texts, and place {number} is none")
    if len(options) > len(LETTERS):
        raise ValueError(f"'options' has {len(options)} texts; letters reach to {len(LETTERS)}")
    letters = [letter_of(option) for option in options]
    # "E. coli" also begins with a letter, but not with that of its position
    in_place = any(letter and letter == own for letter, own in zip(letters, LETTERS, strict=False))
    if in_place or (options and set(letters) == set(LETTERS[: len(options)])):
        return options
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def _lines(text: str) -> Any:
    """Read options that are one per line, each with its letter; the text itself if they are not."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    in_order = all(letter_of(line) == own for line, own in zip(lines, LETTERS, strict=False))
    return lines if 1 < len(lines) <= len(LETTERS) and in_order else text


def letter_of(option: str) -> str:
    """Read the letter that an option begins with, as in ``A. text`` or ``(A) text``; empty if there is none."""
    start = option.lstrip("( ")[:2]
    return start[0] if len(start) == 2 and start[0] in LETTERS and start[1] in ".):" else ""


def option_text(option: str) -> str:
    """Return the text of an option after its letter, if it has one."""
    return (option.lstrip("( ")[2:] if letter_of(option) else option).strip()


def offered_letter(problem: str, answer: str) -> str | None:
    """Find which of the options listed in the question is the answer; None if it is none of them.

    Args:
        answer: ``B``, ``(B)``, or the letter with its text as in the question, ``B. 12``.
    """
    found = _LETTER.fullmatch(unwrap(answer))
    if found is None:
        return None
    letter, text = found[1] or found[2], (found[3] or "").strip()
    if text:
        listed_so = re.search(rf"(?<!\w){letter}[.):\]\u3001\uff0e\uff1a]\s*{re.escape(text)}(?!\w)", problem)
        return letter if listed_so else None
    marked = set(_MARKED.findall(problem))
    standing = marked | set(_STANDING.findall(problem))
    first = "A" if letter.isupper() else "a"
    return letter if first in marked & {"A"} or {first, letter} <= standing else None
