"""Points: strict reading, regions they must hit, and distance."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lit_g2rpo.rewards.answers.geometry import GRID, Box, corners, labelled_box
from lit_g2rpo.rewards.answers.structured import fields, json_value, reals, whole

Point = tuple[float, float]
Region = tuple[Point, ...]
"""A polygon by its corners."""

MAX_POINTS = 100
SIGMA = 50.0
"""Distance on the 0..1000 grid at which a point scores exp(-1/2), from OneThinker."""


def points(text: str) -> list[Point] | None:
    """Read points as `listed_points` does; None if one of them is invalid."""
    return whole(listed_points(text))


def listed_points(text: str) -> list[Point | None] | None:
    """Read points from JSON, ``[{"point_2d": [x, y], "label": "..."}, ..]``, ``{"points": [[x, y], ..]}`` or lists.

    Returns:
        Points on the 0..1000 grid, with None for an invalid item; None if there is no point or there are more than
        ``MAX_POINTS`` items.
    """
    value = json_value(text)
    named = fields(value, "points")
    items = value if named is None else named[0]
    if isinstance(items, dict) or _point(items) is not None:
        items = [items]
    if not isinstance(items, list) or not 0 < len(items) <= MAX_POINTS:
        return None
    found = [_point(item) for item in items]
    return found if any(found) else None


def region(text: str) -> Region | None:
    """Read the region that points must hit: a box in any accepted form, or ``{"polygon": [[x, y], ..]}``.

    Returns:
        Corners of the polygon on the 0..1000 grid; None if it is not a region or has no area.
    """
    value = json_value(text)
    drawn = fields(value, "polygon")
    if drawn is not None:
        return _polygon(drawn[0])
    boxes = fields(value, "boxes")
    inner = value if boxes is None else boxes[0]
    native = labelled_box(inner[0] if isinstance(inner, list) and len(inner) == 1 else inner)
    edges = corners(inner) if native is None else native[0]
    return None if edges is None else _outline(edges)


def inside(point: Point, corners: Region) -> bool:
    """Return whether a point lies in a polygon or on its edge, by the even-odd rule if the polygon crosses itself."""
    x, y = point
    odd = False
    for (ax, ay), (bx, by) in _edges(corners):
        cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        if cross == 0 and min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by):
            return True
        if (ay > y) != (by > y) and (cross > 0) == (by > ay):
            odd = not odd
    return odd


def share_inside(found: Sequence[Point | None], corners: Region) -> float:
    """Return the fraction of points that lie in a region, so that scattering points over an image gains nothing.

    Args:
        found: at least one point; None, for an invalid item, counts as outside.

    Source: the rule of RefSpatial-Bench (RoboRefer, arXiv 2506.04308).
    """
    return sum(point is not None and inside(point, corners) for point in found) / len(found)


def distance(point: Point, corners: Region) -> float:
    """Return the distance from a point to a region in units of the 0..1000 grid; 0 inside."""
    return 0.0 if inside(point, corners) else min(_to_edge(point, *edge) for edge in _edges(corners))


def nearness(found: Sequence[Point], gold: Sequence[Point]) -> float:
    """Return ``exp(-d^2 / (2 sigma^2))`` where d is the mean distance under the best one-to-one matching.

    Args:
        found: points, as many as gold points.

    Source: OneThinker (arXiv 2512.03043) for three points.
    """
    from scipy.optimize import linear_sum_assignment  # imported here because most runs have no points

    costs = [[math.dist(a, b) for b in gold] for a in found]
    rows, columns = linear_sum_assignment(costs)
    mean = math.fsum(costs[row][column] for row, column in zip(rows, columns, strict=True)) / len(gold)
    return math.exp(-(mean**2) / (2 * SIGMA**2))


def point_within(corners: Region) -> Point:
    """Find a point inside a polygon: the middle of the widest inner span, halfway between two of its corners."""
    heights = sorted({y for _, y in corners})
    best = (0.0, corners[0])
    for low, high in pairwise(heights):
        y = (low + high) / 2
        cuts = sorted(
            ax + (y - ay) * (bx - ax) / (by - ay) for (ax, ay), (bx, by) in _edges(corners) if (ay > y) != (by > y)
        )
        best = max(best, *((b - a, ((a + b) / 2, y)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)))
    return best[1]


def _point(value: Any) -> Point | None:
    if isinstance(value, dict):
        if not value.keys() <= {"point_2d", "label"}:
            return None
        value = value.get("point_2d")
    found = reals(value, 2, 0, GRID)
    return None if found is None else (found[0], found[1])


def _polygon(value: Any) -> Region | None:
    if not isinstance(value, list) or not 3 <= len(value) <= MAX_POINTS:
        return None
    found = whole([_point(item) for item in value])
    if found is None:
        return None
    outline = tuple(found)
    return outline if sum(ax * by - bx * ay for (ax, ay), (bx, by) in _edges(outline)) else None


def _outline(edges: Box) -> Region:
    left, top, right, bottom = edges
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _edges(corners: Region) -> list[tuple[Point, Point]]:
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


def _to_edge(point: Point, a: Point, b: Point) -> float:
    (ax, ay), (bx, by), (x, y) = a, b, point
    length = (bx - ax) ** 2 + (by - ay) ** 2
    along = max(0.0, min(1.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) if length else 0.0
    return math.dist(point, (ax + along * (bx - ax), ay + along * (by - ay)))
