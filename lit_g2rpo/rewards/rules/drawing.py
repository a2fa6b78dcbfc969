"""Parts of an answer that can be drawn over its image."""

from lit_g2rpo.rewards.answers.geometry import Box, box
from lit_g2rpo.rewards.answers.points import Point, listed_points
from lit_g2rpo.rewards.rules.detection import listed_boxes
from lit_g2rpo.rewards.rules.segmentation import segmenter_prompt


def boxes_and_points(answer: str) -> tuple[list[Box], list[Point]]:
    """Read the boxes and points of an answer, in any accepted form, on the 0..1000 grid; empty if there are none."""
    segment = segmenter_prompt(answer)
    if segment is not None:
        return [segment.box], segment.positive
    one = box(answer)
    boxes = [one] if one is not None else [found for found, _ in filter(None, listed_boxes(answer) or [])]
    return boxes, [] if boxes else [point for point in listed_points(answer) or [] if point is not None]
