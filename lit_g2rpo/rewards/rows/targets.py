"""The gold answer of a data row as text, and its problem type."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.options import offered_letter
from lit_g2rpo.rewards.rows.scales import is_box
from lit_g2rpo.rewards.rows.values import listed, mapping, missing, shown

# VLM-R1 names an accuracy rule in each row
_TYPE_OF_METHOD = {"mcq": "multiple choice", "math": "math"}
_JOINED = re.compile(r"[\s$.]*(?:,|;|or|and|\\text\{ ?(?:or|and) ?\})[\s$]*\\boxed\{", re.IGNORECASE)
"""Pattern for the text between two boxes that are both the answer."""
_REASONED = re.compile(r".*</think(?:ing)?>\s*(?=\S)", re.DOTALL)


def target(row: Mapping[str, Any], reply: str | None) -> Any:
    """Find the gold answer of a row; None if it has none.

    Args:
        row: the row, without nulls.
        reply: the assistant's turn, if the row has one.

    Raises:
        ValueError: if ``reward_model`` is not an object.
    """
    model = mapping(row, "reward_model")
    given = (row.get("answer"), row.get("solution"), model.get("ground_truth"), row.get("ground_truth"))
    value = listed(next((value for value in given if not missing(value)), None))
    value = reply if value is None else value
    return conclusion(value, row.get("problem_type")) if isinstance(value, str) else value


def conclusion(text: str, problem_type: Any) -> str:
    """Find the answer in a written solution: its last answer block, its last LaTeX box, or the text after ####.

    Reasoning in tags before it is ignored.

    Args:
        problem_type: the row's problem type, if it names one; types without solutions keep the text unchanged.
    """
    if not any(mark in text for mark in ("</answer>", "\\boxed{", "####", "</think")):
        return text
    kind = known_problem_type(problem_type)
    if kind is not None and not kind.solution:
        return text
    if "</answer>" in text and not text.lstrip().startswith("<answer>"):
        return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    if "</think" in text:
        text = _REASONED.sub("", text).strip()
    start = text.rfind("\\boxed{")
    if start < 0:
        # GSM8K's mark, on the last line; on other lines it is a heading
        last = unwrap(text).rpartition("####")[2].strip() if "####" in text else ""
        return last if last and "\n" not in last else text
    before = text.rfind("}", 0, start)
    if "\\boxed{" in text[: before + 1] and _JOINED.fullmatch(text, before + 1, start + len("\\boxed{")):
        return text
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end].strip()
    return text


def answer_text(answer: Any, kind: Any) -> str:
    """Write a gold answer as text, as JSON if it is not text.

    Args:
        answer: a text, number, list or dict.
        kind: the problem type.

    Raises:
        ValueError: if it is anything else.
    """
    if isinstance(answer, str):
        return answer
    finite = not isinstance(answer, float) or math.isfinite(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float | list | dict) or not finite:
        raise ValueError(f"'answer' is {shown(answer)}; it must be a text, a number or JSON")
    if kind == "spatial grounding" and is_box(answer):
        answer = {"boxes": answer}
    try:
        return json.dumps(answer, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'answer' is {shown(answer)}; it must be a text, a number or JSON ({error})") from None


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
    return "multiple choice" if isinstance(answer, str) and offered_letter(problem, answer) else "math"
