"""Boxes: strict reading and overlap."""

from typing import Any

from lit_g2rpo.rewards.answers.structured import fields, json_value, reals

Box = tuple[float, float, float, float]

MAX_BOX_CHARACTERS = 512
GRID = 1000


def box(text: str) -> Box | None:
    """Read one box from JSON, ``{"boxes": [x1, y1, x2, y2]}`` or Qwen's ``[{"bbox_2d": [x1, y1, x2, y2]}]``.

    A fence of three backticks around it is allowed. Duplicate keys, other keys, strings or booleans for numbers,
    values that are not finite or outside 0..1000, and boxes without area are rejected.

    Returns:
        Left, top, right, bottom on the 0..1000 grid; None if the text is not exactly one such box.
    """
    if len(text) > MAX_BOX_CHARACTERS:
        return None
    value = json_value(text)
    found = fields(value, "boxes")
    if found is not None:
        inner = found[0]
        return corners(inner[0] if isinstance(inner, list) and len(inner) == 1 else inner)
    native = labelled_box(value[0] if isinstance(value, list) and len(value) == 1 else value)
    return None if native is None else native[0]


def labelled_box(value: Any) -> tuple[Box, str] | None:
    """Read the box and label of Qwen's ``{"bbox_2d": [x1, y1, x2, y2], "label": "..."}``; the label may be missing."""
    if not (isinstance(value, dict) and value.keys() <= {"bbox_2d", "label"}):
        return None
    found, label = value.get("bbox_2d"), value.get("label") or ""
    edges = corners(found[0] if isinstance(found, list) and len(found) == 1 else found)
    return (edges, label) if edges is not None and isinstance(label, str) else None


def corners(value: Any) -> Box | None:
    """Read left, top, right, bottom on the 0..1000 grid from a list of four numbers; None for a box without area."""
    edges = reals(value, 4, 0, GRID)
    if edges is None:
        return None
    left, top, right, bottom = edges
    return (left, top, right, bottom) if left < right and top < bottom else None


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
