"""What a data row asks for: its answer as text, its options with letters, its problem type."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.scales import is_box

# VLM-R1 names its accuracy rule by row
_TYPE_OF_METHOD = {"mcq": "multiple choice", "math": "math"}


def missing(value: Any) -> bool:
    """Tell null, and the NaN that tables without a null write."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def listed(value: Any) -> Any:
    """Return a list of what may be a list, a tuple or an array."""
    if hasattr(value, "tolist") and not hasattr(value, "convert"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object in a column, an empty one if there is none.

    Raises:
        ValueError: if the column holds something else.
    """
    value = row.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key!r} is {shown(value)}; it must be an object")
    return value


def target(row: Mapping[str, Any], reply: str | None) -> Any:
    """Find the gold answer of a row; None if it has none.

    Args:
        row: the row, without its nulls.
        reply: the assistant's turn, if the row has one.

    Raises:
        ValueError: if ``reward_model`` is no object.
    """
    model = mapping(row, "reward_model")
    given = (row.get("answer"), row.get("solution"), model.get("ground_truth"), row.get("ground_truth"))
    value = listed(next((value for value in given if not missing(value)), None))
    value = reply if value is None else value
    kind = known_problem_type(row.get("problem_type"))
    return _conclusion(value) if isinstance(value, str) and (kind is None or kind.solution) else value


def _conclusion(text: str) -> str:
    """Find the answer of a solution that is written out: its last answer block, or its last box of LaTeX."""
    if "</answer>" in text and not text.lstrip().startswith("<answer>"):
        return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end].strip()
    return text


def answer_text(answer: Any, kind: Any) -> str:
    """Write a gold answer as a text, JSON of what is none.

    Args:
        answer: a text, number, list or dict.
        kind: the problem type.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(answer, str):
        return answer
    if isinstance(answer, bool) or not isinstance(answer, int | float | list | dict):
        raise ValueError(f"'answer' is {shown(answer)}; it must be a text, a number or JSON")
    if kind == "spatial grounding" and is_box(answer):
        answer = {"boxes": answer}
    try:
        return json.dumps(answer, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'answer' is {shown(answer)}; it must be a text, a number or JSON ({error})") from None


def lettered(options: Any) -> list[str]:
    """Put a letter before each option that has none.

    Args:
        options: a list of texts, or texts by letter, or None.

    Returns:
        The options, each ``"A. text"``; as they are if one of them has the letter of its place.

    Raises:
        ValueError: if they are something else, or more than the alphabet.
    """
    options = listed(options)
    if isinstance(options, Mapping):
        options = [f"{letter}. {text}" for letter, text in options.items() if not missing(text)]
    if options is None:
        return []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"'options' is {shown(options)}; it must be a list of texts")
    letters = [letter_of(option) for option in options]
    # "E. coli" begins with a letter too, but not with that of its place
    in_place = any(letter and letter == own for letter, own in zip(letters, LETTERS, strict=False))
    if in_place or (options and set(letters) == set(LETTERS[: len(options)])):
        return options
    if len(options) > len(LETTERS):
        raise ValueError(f"'options' has {len(options)} texts; letters reach to {len(LETTERS)}")
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def letter_of(option: str) -> str:
    """Read the letter that an option begins with, as in ``A. text`` or ``(A) text``; nothing if there is none."""
    start = option.lstrip("( ")[:2]
    return start[0] if len(start) == 2 and start[0] in LETTERS and start[1] in ".):" else ""


def likely_type(row: Mapping[str, Any], problem: str, options: list[str], answer: Any) -> str | None:
    """Guess the problem type of a row that names none; None for a row without options and answer.

    Args:
        answer: its answer, as `target` gives it.
    """
    named = _TYPE_OF_METHOD.get(str(row.get("accu_reward_method")))
    if named or options:
        return named or "multiple choice"
    if answer is None:
        return None
    text = answer.strip().removeprefix("<answer>").removesuffix("</answer>").strip() if isinstance(answer, str) else ""
    offered = any(mark in problem for mark in ("(A)", "A.", "A)", "A:"))
    return "multiple choice" if len(text) == 1 and text in LETTERS and offered else "math"


def shown(value: Any) -> str:
    """Write a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
