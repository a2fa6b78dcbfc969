"""Detection: F1 of boxes matched one to one."""

import math
from collections.abc import Sequence

from lit_g2rpo.rewards.answers.geometry import Box, corners, iou, labelled_box
from lit_g2rpo.rewards.answers.structured import fields, json_value
from lit_g2rpo.rewards.answers.text import fold

MAX_BOXES = 500
"""More boxes than this are no answer: comparing them would take seconds."""
IOU_THRESHOLD = 0.5

LabelledBox = tuple[Box, str]


def labelled_boxes(text: str) -> list[LabelledBox] | None:
    """Read boxes from JSON, ``[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ..]`` or ``{"boxes": [[..], ..]}``.

    Returns:
        Boxes on the 0..1000 grid, each with its label in normal form, empty without one; None if one of them is no
        box, or there are more than ``MAX_BOXES``.
    """
    value = json_value(text)
    plain = fields(value, "boxes")
    if isinstance(value, dict) and plain is None:
        value = [value]
    items = value if plain is None else plain[0]
    if not isinstance(items, list) or len(items) > MAX_BOXES:
        return None
    result = []
    for item in items:
        edges = corners(item) if plain is not None else None
        found = (edges, "") if edges is not None else labelled_box(item)
        if found is None:
            return None
        result.append((found[0], fold(found[1]).casefold()))
    return result


def detection_f1(answer: Sequence[LabelledBox], gold: Sequence[LabelledBox]) -> float:
    """Return the F1 of the largest one-to-one matching in which boxes overlap by half and labels are the same.

    A box too many costs as much as a box missed, wherever it stands, so that a list of guesses gains nothing. A gold
    box without a label takes any. Nothing against nothing is 1.
    """
    if not answer or not gold:
        return float(not answer and not gold)
    from scipy.optimize import linear_sum_assignment  # here, because most runs detect nothing

    fits = [
        [float((not label or label == named) and iou(found, box) >= IOU_THRESHOLD) for box, label in gold]
        for found, named in answer
    ]
    rows, columns = linear_sum_assignment(fits, maximize=True)
    matched = math.fsum(fits[row][column] for row, column in zip(rows, columns, strict=True))
    return 2 * matched / (len(answer) + len(gold))
