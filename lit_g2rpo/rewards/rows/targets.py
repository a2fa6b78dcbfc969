"""What a data row asks for: its answer as text, and its problem type."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.options import offered_letter
from lit_g2rpo.rewards.rows.values import listed, mapping, missing, shown

# VLM-R1 names its accuracy rule by row
_TYPE_OF_METHOD = {"mcq": "multiple choice", "math": "math"}


class SizeNeeded(ValueError):
    """A row with a box in pixels that does not say how large its image is, in columns ``width`` and ``height``."""


def target(row: Mapping[str, Any], reply: str | None) -> Any:
    """Find the gold answer of a row, boxes brought to 0..1000; None if it has none.

    Args:
        row: the row, without its nulls.
        reply: the assistant's turn, if the row has one.

    Raises:
        ValueError: if it is a box that cannot be brought to 0..1000.
    """
    model, objects = mapping(row, "reward_model"), mapping(row, "objects")
    given = (row.get("answer"), row.get("solution"), model.get("ground_truth"), row.get("ground_truth"))
    value = listed(next((value for value in given if not missing(value)), None))
    if is_box(value) and not {"answer", "problem_type"} & row.keys():
        # VLM-R1's referring expressions
        return {"boxes": on_grid(value, row)}
    if value is None and objects.get("bbox") and (reply is None or "<bbox>" in reply):
        return _objects(objects, row)
    value = reply if value is None else value
    return conclusion(value, row.get("problem_type")) if isinstance(value, str) else value


def conclusion(text: str, problem_type: Any) -> str:
    """Find the answer of a solution that is written out: its last answer block, its last box of LaTeX, or behind ####.

    Args:
        problem_type: of the row, if it names one; that of a type without solutions is left as it is.
    """
    if "</answer>" not in text and "\\boxed{" not in text and "####" not in text:
        return text
    kind = known_problem_type(problem_type)
    if kind is not None and not kind.solution:
        return text
    if "</answer>" in text and not text.lstrip().startswith("<answer>"):
        return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    start = text.rfind("\\boxed{")
    if start < 0:
        # the mark of GSM8K, whose last line is the result; other lines have headings
        last = unwrap(text).rpartition("####")[2].strip() if "####" in text else ""
        return last if last and "\n" not in last else text
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end].strip()
    return text


def _objects(objects: Mapping[str, Any], rest: Mapping[str, Any]) -> Any:
    kind, boxes = objects.get("bbox_type") or "real", listed(objects["bbox"])
    boxes = [listed(box) for box in boxes] if isinstance(boxes, list) else [boxes]
    if not all(is_box(box) for box in boxes):
        raise ValueError(f"'objects' has bbox {shown(boxes)}; each must be [x1, y1, x2, y2]")
    if kind == "real":
        boxes = [on_grid(box, rest) for box in boxes]
    elif kind == "norm1":
        boxes = [[value * 1000 for value in box] for box in boxes]
    else:
        raise ValueError(f"'objects' has bbox_type {kind!r}; it must be 'real' (pixels) or 'norm1' (0 to 1)")
    if len(boxes) == 1:
        return {"boxes": boxes[0]}
    labels = listed(objects.get("ref")) or [""] * len(boxes)
    if not isinstance(labels, list) or len(labels) != len(boxes):
        raise ValueError(f"'objects' has {len(boxes)} boxes but ref {shown(labels)}; there must be one each")
    return [{"bbox_2d": box, "label": label} for box, label in zip(boxes, labels, strict=True)]


def on_grid(box: list[float], rest: Mapping[str, Any]) -> list[float]:
    """Bring a box in pixels (x1, y1, x2, y2) to 0..1000, not rounded.

    Args:
        rest: the row, which says how large its image is.

    Raises:
        SizeNeeded: if the row does not say so.
        ValueError: if the box lies outside the image.
    """
    width, height = rest.get("width"), rest.get("height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise SizeNeeded("its box is in pixels; the size of the image is needed in columns 'width' and 'height'")
    grid = [value * 1000 / side for value, side in zip(box, (width, height) * 2, strict=True)]
    # annotations overhang an image by rounding; further out the coordinates are of another image or scale
    if not all(-10 <= value <= 1010 for value in grid):
        raise ValueError(f"box {box} in pixels lies outside its image of {width} x {height}")
    return [min(max(value, 0.0), 1000.0) for value in grid]


def is_box(value: Any) -> bool:
    """Tell a list of four numbers."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    )


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
    if isinstance(answer, dict) and "boxes" in answer:
        return "spatial grounding"
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "bbox_2d" in answer[0]:
        return "detection"
    return "multiple choice" if isinstance(answer, str) and offered_letter(problem, answer) else "math"
