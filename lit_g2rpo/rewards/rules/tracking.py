"""Tracking: one box per second, alone or with a time span."""

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lit_g2rpo.rewards.answers.geometry import Box, corners, iou
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.spans import Span, span_iou, start_and_end
from lit_g2rpo.rewards.answers.structured import fields, json_value

Track = Mapping[Fraction | int | str, Box | None]
"""Boxes by second; None for an unreadable box. An unreadable second is stored under its text."""

MAX_FRAMES = 1000


def listed_track(text: str) -> Track | None:
    """Read boxes on the 0..1000 grid by second from JSON, ``{"boxes": {"1": [x1, y1, x2, y2], ..}}``.

    Returns:
        The track; None if it has no seconds, or more than ``MAX_FRAMES``.
    """
    found = fields(json_value(text), "boxes")
    return None if found is None else _track(found[0])


def track(text: str) -> Track | None:
    """Read a track as `listed_track` does; None if one of its boxes or seconds cannot be read."""
    found = listed_track(text)
    return found if found is not None and all(found.values()) else None


def listed_timed_track(text: str) -> tuple[Span, Track] | None:
    """Read a span, seconds, and a track from JSON, ``{"time": [start, end], "boxes": {"9": [x1, y1, x2, y2], ..}}``."""
    found = fields(json_value(text), "time", "boxes")
    if found is None:
        return None
    when, where = start_and_end(found[0]), _track(found[1])
    return None if when is None or where is None else (when, where)


def timed_track(text: str) -> tuple[Span, Track] | None:
    """Read a span and a track as `listed_timed_track` does; None if a box or second of the track cannot be read."""
    found = listed_timed_track(text)
    return found if found is not None and all(found[1].values()) else None


def track_of_timed(text: str) -> Track | None:
    """Read the track of a span and a track, as `listed_timed_track` does."""
    found = listed_timed_track(text)
    return None if found is None else found[1]


def track_iou(answer: Track, gold: Track) -> float:
    """Return the sum of overlaps over the gold seconds, divided by the larger number of seconds.

    A gold second without a readable box counts 0, and extra seconds cost, so boxes for all seconds gain nothing over
    boxes for only the most likely ones.
    """
    return _overlap(answer, gold) / max(len(answer), len(gold))


def mean_iou(answer: Track, gold: Track) -> float:
    """Return the mean overlap over the gold seconds, as the released reward does for tracks.

    For spatio-temporal grounding it averages over the seconds that both have, which pays one easy box as much as the
    whole track.
    """
    return _overlap(answer, gold) / len(gold)


def timed_reward(answer: tuple[Span, Track], gold: tuple[Span, Track]) -> float:
    """Return half the overlap in time plus half the mean overlap of boxes.

    Source: OneThinker (arXiv 2512.03043), with `track_iou`.
    """
    return 0.5 * span_iou(answer[0], gold[0]) + 0.5 * track_iou(answer[1], gold[1])


def released_timed_reward(answer: tuple[Span, Track], gold: tuple[Span, Track]) -> float:
    """Return half the overlap in time plus half the mean overlap over the gold seconds."""
    return 0.5 * span_iou(answer[0], gold[0]) + 0.5 * mean_iou(answer[1], gold[1])


def _overlap(answer: Track, gold: Track) -> float:
    pairs = ((answer.get(second), box) for second, box in gold.items())
    return sum(iou(found, box) for found, box in pairs if found is not None and box is not None)


@lru_cache(MAX_FRAMES)
def _second(text: str) -> Fraction | int | None:
    value = number(text)
    # the same to a mapping, and hashed faster
    return int(value) if value is not None and value.denominator == 1 else value


def _track(value: Any) -> Track | None:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_FRAMES:
        return None
    result: dict[Fraction | int | str, Box | None] = {}
    for key, item in value.items():
        second = _second(key)
        if second is None:
            result[key] = None
        elif second in result:
            # "9" and "9.0": a duplicate second has no box
            result |= {second: None, key: None}
        else:
            result[second] = corners(item)
    return result
