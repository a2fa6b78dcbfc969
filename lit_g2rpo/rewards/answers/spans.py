"""Temporal grounding: strict reading of time spans, and their overlap."""

from typing import Any

from lit_g2rpo.rewards.answers.structured import fields, json_value, reals

Span = tuple[float, float]

MAX_SECONDS = 1e6


def span(text: str) -> Span | None:
    """Read start and end, seconds, from JSON, ``{"time": [start, end]}``; None if it ends before it starts."""
    found = fields(json_value(text), "time")
    return None if found is None else start_and_end(found[0])


def start_and_end(value: Any) -> Span | None:
    """Read start and end, seconds, from a JSON list of two numbers; None if it ends before it starts."""
    times = reals(value, 2, 0, MAX_SECONDS)
    return (times[0], times[1]) if times is not None and times[0] <= times[1] else None


def span_iou(a: Span, b: Span) -> float:
    """Return the intersection over union of two spans; two equal moments overlap fully."""
    if a == b:
        return 1.0
    common = min(a[1], b[1]) - max(a[0], b[0])
    return common / (a[1] - a[0] + b[1] - b[0] - common) if common > 0 else 0.0
