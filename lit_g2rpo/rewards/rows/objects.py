"""The column ``objects`` of ms-swift: labels and boxes that replace marks in the turns."""

import re
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

from lit_g2rpo.rewards.rows.scales import is_box, to_grid
from lit_g2rpo.rewards.rows.turns import Asked
from lit_g2rpo.rewards.rows.values import listed, mapping, missing, shown

OBJECT = re.compile(r"<ref-object>|<bbox>")


def fill_objects(asked: Asked, row: Mapping[str, Any]) -> tuple[bool, int, int]:
    """Replace ``<ref-object>`` and ``<bbox>`` in the turns with ms-swift's labels and boxes, in order.

    Returns:
        Whether boxes were put into the reply, and how many boxes and labels come before it.

    Raises:
        ValueError: if there are more marks than labels or boxes.
    """
    objects = mapping(row, "objects")
    if not objects:
        return False, 0, 0
    texts = [*(text for _, text in asked.earlier), asked.problem, asked.reply or ""]
    marked = "".join(texts)
    labels = _labels(objects)
    boxes = boxes_of_objects(row) if "<bbox>" in marked and objects.get("bbox") else []
    before = "".join(texts[:-1])
    counts = {mark: marked.count(mark) for mark in ("<ref-object>", "<bbox>")}
    # a reply may repeat objects from the question
    again = bool(labels) and before.count("<ref-object>") in (0, len(labels))
    for mark, there in (("<ref-object>", labels), ("<bbox>", boxes)):
        if counts[mark] > len(there) and not (mark == "<ref-object>" and again):
            raise ValueError(f"its turns hold {counts[mark]} {mark}, but 'objects' has {len(there)} for them")
    if not any(counts.values()):
        return False, 0, 0
    if asked.reply and "<bbox>" in asked.reply and counts["<bbox>"] < len(boxes):
        raise ValueError(f"its turns hold {counts['<bbox>']} <bbox>, but 'objects' has {len(boxes)} boxes for them")
    filling: dict[str, Iterator[Any]] = {"<ref-object>": cycle(labels), "<bbox>": iter(boxes)}
    asked.earlier = [(role, _filled(text, filling, exact=False)) for role, text in asked.earlier]
    asked.problem = _filled(asked.problem, filling, exact=False)
    answered = bool(asked.reply and "<bbox>" in asked.reply)
    if asked.reply is not None:
        alone = answered and not OBJECT.sub("", asked.reply).strip()
        asked.reply = _filled(asked.reply, filling, exact=True, alone=alone)
    return answered, before.count("<bbox>"), before.count("<ref-object>")


def _filled(text: str, filling: Mapping[str, Iterator[Any]], exact: bool, alone: bool = False) -> str:
    def found(match: re.Match[str]) -> str:
        value = next(filling[match[0]])
        if isinstance(value, str):
            return "" if alone else value
        figures = value if exact else [round(figure) for figure in value]
        if not alone:
            return str(figures)
        mark = "box" if len(value) == 4 else "point"
        return f"<{mark}>{figures}</{mark}>"

    return OBJECT.sub(found, text)


def place_of_objects(row: Mapping[str, Any], used: int, used_labels: int) -> tuple[Any, str] | None:
    """Read ms-swift's boxes as the gold answer of a row without an assistant's turn.

    Args:
        row: the row with its ``objects``.
        used: number of boxes in the question.
        used_labels: number of labels in the question.

    Raises:
        ValueError: if the labels do not fit the boxes.
    """
    boxes = boxes_of_objects(row)[used:]
    if not boxes:
        return None
    every = _labels(mapping(row, "objects"))
    labels = next((some for some in (every, every[used_labels:]) if len(some) == len(boxes)), [])
    if not labels and every:
        if len(boxes) > 1 and len(every) > 1:
            raise ValueError(f"'objects' has {len(boxes)} boxes but ref {shown(every)}; there must be one each")
        labels = every[:1] * len(boxes)
    if len(boxes[0]) == 2:
        return {"points": boxes}, "point grounding"
    found = [{"bbox_2d": box, "label": label} for box, label in zip(boxes, labels or [""] * len(boxes), strict=True)]
    return ({"boxes": boxes[0]}, "spatial grounding") if len(boxes) == 1 else (found, "detection")


def named_boxes(row: Mapping[str, Any], used: int, used_labels: int) -> list[dict[str, Any]] | None:
    """Find the boxes of the assistant's turn with their labels; None unless each has one.

    Args:
        used: number of boxes before it.
        used_labels: number of labels before it.
    """
    boxes, labels = boxes_of_objects(row)[used:], _labels(mapping(row, "objects"))
    labels = next((some for some in (labels, labels[used_labels:]) if len(some) == len(boxes)), [])
    return [{"bbox_2d": box, "label": label} for box, label in zip(boxes, labels, strict=False)] or None


def _labels(objects: Mapping[str, Any]) -> list[str]:
    labels = listed(objects.get("ref"))
    labels = [labels] if isinstance(labels, str) else [] if missing(labels) else labels
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"'objects' has ref {shown(labels)}; it must be a list of texts")
    return labels


def boxes_of_objects(row: Mapping[str, Any]) -> list[list[float]]:
    """Convert ms-swift's boxes and points, ``objects.bbox``, to the 0..1000 grid.

    Raises:
        ValueError: if they are neither boxes nor points, or their scale is unknown.
    """
    objects = mapping(row, "objects")
    boxes = listed(objects.get("bbox"))
    boxes = [listed(box) for box in boxes] if isinstance(boxes, list) else [boxes]
    if not all(is_box(box) or is_box(box, 2) for box in boxes) or len({len(box) for box in boxes}) > 1:
        raise ValueError(f"'objects' has bbox {shown(boxes)}; each must be [x1, y1, x2, y2], or each [x, y]")
    kind = objects.get("bbox_type") or row.get("bbox_type") or ("norm1" if _fractions(boxes) else "real")
    return [to_grid(box, row, str(kind), "objects") for box in boxes]


def _fractions(boxes: list[list[float]]) -> bool:
    return any(isinstance(value, float) for box in boxes for value in box) and max(map(max, boxes), default=2) <= 1
