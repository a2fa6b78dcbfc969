"""Multiple choice: which letter an answer names."""

from collections.abc import Sequence

from lit_g2rpo.rewards.answers.text import fold

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice(text: str, options: Sequence[str]) -> str | None:
    """Read the letter an answer names.

    Accepts ``b``, ``(B)``, ``B.``, ``B)``, ``B:``, ``B. text of option B``, and the exact text of one option. A
    letter next to another option's text names two options and so none.

    Args:
        options: the options, each ``"A. text"``, in the order of their letters; empty if they are in the question.
    """
    answer = fold(text)
    letters = LETTERS[: len(options)] if options else LETTERS
    letter, rest = _split(answer)
    if letter and letter in letters:
        named = _bare(options[letters.index(letter)]) if options else ""
        if not rest or (options and _same(rest, named)):
            return letter
    matches = [letters[i] for i, option in enumerate(options[: len(letters)]) if _same(answer, _bare(option))]
    return matches[0] if len(matches) == 1 else None


def _split(text: str) -> tuple[str, str]:
    inner = text[1:] if text.startswith("(") else text
    letter = inner[:1].upper()
    if len(letter) != 1 or letter not in LETTERS:
        return "", ""
    if text.startswith("("):
        return (letter, inner[2:].strip()) if inner[1:2] == ")" else ("", "")
    if len(inner) == 1:
        return letter, ""
    return (letter, inner[2:].strip()) if inner[1] in ".):" else ("", "")


def _bare(option: str) -> str:
    letter, rest = _split(fold(option))
    return rest if letter and rest else fold(option)


def _same(a: str, b: str) -> bool:
    return bool(a) and a.replace(" ", "").casefold() == b.replace(" ", "").casefold()
