"""Segmentation: prompts for a segmenter, a box with points on and off the object."""

import math
from dataclasses import dataclass
from typing import Any

from lit_g2rpo.rewards.answers.geometry import GRID, Box, corners, iou
from lit_g2rpo.rewards.answers.points import Point, nearness
from lit_g2rpo.rewards.answers.spans import MAX_SECONDS
from lit_g2rpo.rewards.answers.structured import fields, json_value, reals

N_POINTS = 3
TIME_SCALE = 2.0
"""Error in seconds at which the chosen frame earns exp(-1)."""


@dataclass(slots=True, frozen=True)
class SegmenterPrompt:
    """A prompt that makes a segmenter cut out an object.

    Args:
        box: the object's box on the 0..1000 grid.
        positive: three points on the object.
        negative: three points off it.
        time: the frame of a video, seconds; None for an image.
    """

    box: Box
    positive: list[Point]
    negative: list[Point]
    time: float | None


def segmenter_prompt(text: str) -> SegmenterPrompt | None:
    """Read ``{"boxes": [..], "positive_points": [3 points], "negative_points": [3 points]}``, a ``time`` for video.

    Returns:
        The prompt; None if any part of it is missing or invalid.
    """
    value = json_value(text)
    names = ("boxes", "positive_points", "negative_points")
    found = fields(value, *names) or fields(value, *names, "time")
    if found is None:
        return None
    edges, positive, negative = corners(found[0]), _points(found[1]), _points(found[2])
    time = reals(found[3:], 1, 0, MAX_SECONDS) if len(found) == 4 else (None,)
    if edges is None or positive is None or negative is None or time is None:
        return None
    return SegmenterPrompt(edges, positive, negative, time[0])


def segmentation_reward(answer: SegmenterPrompt, gold: SegmenterPrompt) -> float:
    """Score a segmenter's prompt by overlap of boxes and distance of points and, in a video, of frames.

    Args:
        answer: has a time if and only if gold has one.

    Source: OneThinker (arXiv 2512.03043).
    """
    overlap = iou(answer.box, gold.box)
    on, off = nearness(answer.positive, gold.positive), nearness(answer.negative, gold.negative)
    if answer.time is None or gold.time is None:
        return 0.5 * overlap + 0.25 * on + 0.25 * off
    return 0.3 * overlap + 0.3 * math.exp(-abs(answer.time - gold.time) / TIME_SCALE) + 0.2 * on + 0.2 * off


def _points(value: Any) -> list[Point] | None:
    pairs = [reals(item, 2, 0, GRID) for item in value] if isinstance(value, list) else []
    found = [(pair[0], pair[1]) for pair in pairs if pair is not None]
    return found if len(found) == len(pairs) == N_POINTS else None
