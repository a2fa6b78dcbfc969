"""Gold answers that are places: boxes, points and times in any spelling, converted to the one that the rules read."""

from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.rows.scales import is_box, numbers, to_grid
from lit_g2rpo.rewards.rows.spellings import BARE, LIKELY_POINT, LISTED, OWN, answer_inside, read_place
from lit_g2rpo.rewards.rows.values import listed, mapping, missing

PLACES = {
    "spatial grounding", "detection", "point grounding", "GUI grounding", "segmentation", "temporal grounding",
    "spatial-temporal grounding", "tracking",
}  # fmt: skip
"""Problem types whose gold answer is a place."""

SMALL = 20
"""Lists of numbers up to this answer a math question and are not a box in a corner of the 0..1000 grid."""
THIN = 10
"""A list of numbers whose box would have a side below this is ambiguous."""
REPLY = "the assistant's turn"


def place(
    row: Mapping[str, Any], reply: str | None, *, sees: bool, chosen: bool, task: Any, filled: bool
) -> tuple[Any, str] | None:
    """Read a gold answer that is a place.

    Args:
        row: the row, without nulls.
        reply: the assistant's turn, if the row has one.
        sees: the row has images or videos.
        chosen: the row has options.
        task: the task named by the row or its source; answers to math questions are not places.
        filled: boxes, on the grid, were put into the reply.

    Returns:
        The answer on the 0..1000 grid, in the form that its rule reads, and its problem type; None if it is not a
        place, or already has the form of the problem type that the row names.

    Raises:
        ValueError: if it is a place whose scale or form is ambiguous.
    """
    declared = row.get("problem_type")
    if (declared and (not isinstance(declared, str) or declared not in PLACES)) or chosen:
        return None
    if not declared and (task == "math_reasoning" or not (sees or "solution" in row)):
        return None
    column, value = _given(row, reply)
    plain = column == "solution" and is_box(value)
    if value is None or not (declared or sees or plain):
        return None
    if declared and ("bbox_type" not in row or declared == "temporal grounding") and _is_formed(value):
        return None
    try:
        found = read_place(value)
    except ValueError:
        # the rule of the row's own problem type says what is wrong
        if declared:
            return None
        raise
    if found is None:
        return None
    kind, content, spelled = found
    if not declared and spelled in (LISTED, BARE) and not plain and not _likely_box(content, spelled):
        return None
    kind = declared or kind
    if kind != "temporal grounding":
        scale = row.get("bbox_type") or ("norm1000" if declared or (filled and column == REPLY) else None)
        usual = "norm1000" if spelled == OWN or column == "answer" else None
        # VLM-R1's column
        usual = "real" if spelled == LISTED and column == "solution" else usual
        content = to_grid(content, row, scale, column, usual)
    return _formed(content, kind), kind


def _given(row: Mapping[str, Any], reply: str | None) -> tuple[str, Any]:
    given = {
        "answer": row.get("answer"),
        "solution": row.get("solution"),
        "reward_model.ground_truth": mapping(row, "reward_model").get("ground_truth"),
        "ground_truth": row.get("ground_truth"),
        "bbox_2d": row.get("bbox_2d"),
        REPLY: reply,
    }
    return next(((name, listed(value)) for name, value in given.items() if not missing(value)), ("answer", None))


def _is_formed(value: Any) -> bool:
    """Return whether the rule of its problem type may read an answer unchanged."""
    if not isinstance(value, str):
        return True
    found = answer_inside(value)
    return isinstance(found, dict) or (isinstance(found, list) and all(isinstance(one, dict) for one in found))


def _likely_box(content: Any, spelled: str) -> bool:
    """Return whether a list of numbers is a box, not the answer to a math question.

    Raises:
        ValueError: if it may be either.
    """
    if "points" in content:
        return True
    boxes = [content["boxes"]] if isinstance(content, dict) else [one["bbox_2d"] for one in content]
    largest = max(numbers(content))
    ordered = all(box[0] < box[2] and box[1] < box[3] and min(box) >= 0 for box in boxes)
    settled = "say which: --default problem_type='spatial grounding' or math"
    if spelled == BARE or not ordered:
        if not largest <= LIKELY_POINT:
            raise ValueError(f"the answer {boxes[0]} may be several numbers, or a box in another spelling; {settled}")
        return False
    if 1 < largest <= SMALL:
        return False
    if largest > 1 and any(min(box[2] - box[0], box[3] - box[1]) < THIN for box in boxes):
        raise ValueError(f"the answer {boxes[0]} may be a very small box or a list of numbers; {settled}")
    return True


def _formed(content: Any, kind: str) -> Any:
    """Convert places to the form that the rule of a problem type reads."""
    if isinstance(content, list) and len(content) == 1 and kind != "detection":
        return {"boxes": content[0]["bbox_2d"]} if "bbox_2d" in content[0] else content
    if kind == "detection" and isinstance(content, dict) and is_box(content.get("boxes")):
        return [{"bbox_2d": content["boxes"], "label": ""}]
    return content
