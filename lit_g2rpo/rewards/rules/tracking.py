"""Tracking: one box for each second, alone or with a span of time."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lit_g2rpo.rewards.answers.geometry import Box, corners, iou
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.spans import Span, span_iou, start_and_end
from lit_g2rpo.rewards.answers.structured import fields, json_value

Track = Mapping[Fraction, Box]
"""Boxes by second."""

MAX_FRAMES = 1000


def track(text: str) -> Track | None:
    """Read boxes on the 0..1000 grid by second from JSON, ``{"boxes": {"1": [x1, y1, x2, y2], ..}}``."""
    found = fields(json_value(text), "boxes")
    return None if found is None else _track(found[0])


def timed_track(text: str) -> tuple[Span, Track] | None:
    """Read a span, seconds, and a track from JSON, ``{"time": [start, end], "boxes": {"9": [x1, y1, x2, y2], ..}}``."""
    found = fields(json_value(text), "time", "boxes")
    if found is None:
        return None
    when, where = start_and_end(found[0]), _track(found[1])
    return None if when is None or where is None else (when, where)


def track_of_timed(text: str) -> Track | None:
    """Read the track of a span and a track, as `timed_track` does."""
    found = timed_track(text)
    return None if found is None else found[1]


def mean_iou(answer: Track, gold: Track) -> float:
    """Return the mean overlap over the gold seconds; one without a box in the answer counts 0.

    The mean over seconds that both have, as the released reward takes it for spatio-temporal grounding, pays one easy
    box as much as the whole track.
    """
    return sum(iou(answer[second], box) for second, box in gold.items() if second in answer) / len(gold)


def timed_reward(answer: tuple[Span, Track], gold: tuple[Span, Track]) -> float:
    """Return half the overlap in time plus half the mean overlap of boxes.

    Source: OneThinker (arXiv 2512.03043), with the mean over gold seconds.
    """
    return 0.5 * span_iou(answer[0], gold[0]) + 0.5 * mean_iou(answer[1], gold[1])


def _track(value: Any) -> Track | None:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_FRAMES:
        return None
    result: dict[Fraction, Box] = {}
    for key, item in value.items():
        second, edges = number(key), corners(item)
        # "9" and "9.0" are the same second, given twice
        if second is None or edges is None or second in result:
            return None
        result[second] = edges
    return result
