"""Gold answers that are the index of an option, not its letter or text."""

from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.problem_types import known_problem_type

READINGS = {"index": "counted from 0", "number": "counted from 1", "text": "the option's text"}
"""Values of the column ``answer_as``."""


def letter_of_index(row: Mapping[str, Any], texts: list[str], answer: Any) -> Any:
    """Read a whole number in a row with options as an option's index, and return its letter.

    Args:
        row: the row, without its nulls.
        texts: the options as in the row, without added letters.
        answer: the gold answer.

    Returns:
        The letter; the answer itself if it is not a number, or is the text of an option.

    Raises:
        ValueError: if it could be either.
    """
    kind = known_problem_type(row.get("problem_type", "multiple choice"))
    figure = str(answer).strip()
    if kind is None or not kind.options or isinstance(answer, bool) or not (figure.isascii() and figure.isdigit()):
        return answer
    number, reading = int(figure), row.get("answer_as")
    if reading is not None and reading not in READINGS:
        known = ", ".join(f"{name} ({meaning})" for name, meaning in READINGS.items())
        raise ValueError(f"answer_as {reading!r}; it must be one of {known}")
    same = [place for place, text in enumerate(texts) if text.strip() == figure]
    found = {"index": number, "number": number - 1, "text": same[0] if len(same) == 1 else -1}
    # in every table on the hub with a whole number beside `choices`, it counts from 0
    from_zero = isinstance(answer, int) and "choices" in row and "options" not in row
    possible = {
        name: place
        for name, place in found.items()
        if 0 <= place < len(texts) and reading in (None, name) and not (name == "number" and from_zero)
    }
    if len(set(possible.values())) > 1:
        meanings = " or ".join(f"{READINGS[name]} ({LETTERS[place]})" for name, place in possible.items())
        raise ValueError(
            f"answer {figure} beside {len(texts)} options may be {meanings}; say which: column answer_as or "
            f"data.defaults.answer_as (--default answer_as={next(iter(possible))})"
        )
    return LETTERS[next(iter(possible.values()))] if possible.keys() - {"text"} else answer
