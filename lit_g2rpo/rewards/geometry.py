"""Boxes: strict reading and overlap."""

import json
import math
from typing import Any

Box = tuple[float, float, float, float]

MAX_CHARACTERS = 512
MAX_DEPTH = 6
GRID = 1000


def box(text: str) -> Box | None:
    """Reads one box from JSON, ``{"boxes": [x1, y1, x2, y2]}`` or Qwen's ``[{"bbox_2d": [x1, y1, x2, y2]}]``.

    A fence of three backticks around it is allowed. Duplicate keys, other keys, strings or booleans for numbers,
    values that are not finite or outside 0..1000, and boxes without area are not.

    Args:
        text: what should be a box.

    Returns:
        Left, top, right, bottom on the 0..1000 grid; None if it is not exactly one such box.
    """
    body = _unfence(text.strip())
    # The decoder recurses, so depth is bounded before it runs.
    if len(body) > MAX_CHARACTERS or body.count("[") + body.count("{") > MAX_DEPTH:
        return None
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_reject)
    except (ValueError, RecursionError):
        return None
    return _corners(value)


def iou(a: Box, b: Box) -> float:
    """Returns the overlap of two boxes, intersection over union.

    Args:
        a: left, top, right, bottom.
        b: the same.

    Returns:
        From 0 to 1.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _unfence(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].removeprefix("json").strip()
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _reject(constant: str) -> None:
    raise ValueError(constant)


def _corners(value: Any) -> Box | None:
    if isinstance(value, dict) and value.keys() == {"boxes"}:
        value = value["boxes"]
    elif isinstance(value, list | dict):
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not (isinstance(value, dict) and "bbox_2d" in value and value.keys() <= {"bbox_2d", "label"}):
            return None
        value = value["bbox_2d"]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not (isinstance(value, list) and len(value) == 4 and all(type(edge) in (int, float) for edge in value)):
        return None
    left, top, right, bottom = value
    if not all(0 <= edge <= GRID and math.isfinite(edge) for edge in value) or left >= right or top >= bottom:
        return None
    return float(left), float(top), float(right), float(bottom)
