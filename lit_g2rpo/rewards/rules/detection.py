"""Detection: one-to-one matching of boxes."""

import math
from collections.abc import Sequence
from typing import Any

from lit_g2rpo.rewards.answers.geometry import Box, corners, iou, labelled_box
from lit_g2rpo.rewards.answers.structured import fields, json_value, whole
from lit_g2rpo.rewards.answers.text import fold

MAX_BOXES = 500
"""Most boxes in an answer: comparing more would take seconds."""
IOU_THRESHOLD = 0.5

LabelledBox = tuple[Box, str]


def labelled_boxes(text: str) -> list[LabelledBox] | None:
    """Read boxes as `listed_boxes` does; None if one of them is invalid."""
    return whole(listed_boxes(text))


def listed_boxes(text: str) -> list[LabelledBox | None] | None:
    """Read boxes from JSON, ``[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ..]`` or ``{"boxes": [[..], ..]}``.

    Returns:
        Boxes on the 0..1000 grid, each with its label in normal form (empty if it has none), and None for an invalid
        item. None if it is not a list, all items are invalid, or there are more than ``MAX_BOXES``.
    """
    value = json_value(text)
    plain = fields(value, "boxes")
    if isinstance(value, dict) and plain is None:
        value = [value]
    items = value if plain is None else plain[0]
    if not isinstance(items, list) or len(items) > MAX_BOXES:
        return None
    result = [_item(item, plain is not None) for item in items]
    return result if any(result) or not items else None


def matched_share(answer: Sequence[LabelledBox | None], gold: Sequence[LabelledBox]) -> float:
    """Return the number of right boxes over the larger of the two numbers of boxes.

    This is the smaller of precision and recall. The right boxes are those of the largest one-to-one matching in which
    boxes overlap by half and labels are equal; a gold box without a label matches any label. Each further box adds
    less to a matching, so of more guesses than gold boxes, some subset as large as gold scores at least as well,
    whatever the policy believes about the places: guessing more boxes never pays. F1 would pay k guesses 2 / (k + 1),
    and matched over union, fine for one object, would pay two guesses for each of two objects more than one for each.
    Two empty lists score 1.

    Args:
        answer: its boxes; None, for an invalid item, counts as a wrong box.
    """
    if not answer or not gold:
        return float(not answer and not gold)
    from scipy.optimize import linear_sum_assignment  # imported here because most runs have no detection

    fits = [
        [float((not label or label == named) and iou(found, box) >= IOU_THRESHOLD) for box, label in gold]
        for found, named in filter(None, answer)
    ]
    rows, columns = linear_sum_assignment(fits, maximize=True)
    matched = math.fsum(fits[row][column] for row, column in zip(rows, columns, strict=True))
    return matched / max(len(answer), len(gold))


def _item(value: Any, plain: bool) -> LabelledBox | None:
    edges = corners(value) if plain else None
    found = (edges, "") if edges is not None else labelled_box(value)
    return None if found is None else (found[0], fold(found[1]).casefold())
