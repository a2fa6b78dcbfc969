"""Clicks on screen elements: where they land."""

import math

from lit_g2rpo.rewards.answers.points import Point, Region, distance, inside, points
from lit_g2rpo.rewards.answers.structured import json_value, reals

TAU = 50.0
"""Distance from the element, on the grid, at which a missed click earns exp(-1) with partial credit."""


def click(text: str) -> Point | None:
    """Read the single point (0..1000) that an answer clicks, or the ``coordinate`` of a tool call; tags are allowed."""
    text = text.strip().removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
    call = json_value(text)
    arguments = call.get("arguments", call) if isinstance(call, dict) else None
    if isinstance(arguments, dict) and "coordinate" in arguments:
        found = reals(arguments["coordinate"], 2, 0, 1000)
        return None if found is None else (found[0], found[1])
    several = points(text)
    return several[0] if several is not None and len(several) == 1 else None


def click_reward(point: Point, element: Region, dense: bool = False) -> float:
    """Score a click: 1 on the element or its edge, else 0.

    Args:
        dense: give a miss ``exp(-distance / TAU)``.
    """
    if dense:
        return math.exp(-distance(point, element) / TAU)
    return float(inside(point, element))
