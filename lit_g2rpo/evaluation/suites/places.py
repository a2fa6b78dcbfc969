"""The box or points that a text names, as the suites find them in free text."""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_g2rpo.rewards.answers.geometry import GRID, Box
from lit_g2rpo.rewards.answers.points import Point

UNIT = 1.5
"""Coordinates up to this are fractions of the image; up to ``GRID`` they are on the grid; beyond they are pixels."""

MAX_LITERAL = 4096
_NUMBER = r"[-+]?(?:\d++(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d++)?"
_BETWEEN = r"(?:\s*+,\s*+|\s++)"
_BRACKETED = re.compile(r"\[\s*+(" + rf"){_BETWEEN}(".join([_NUMBER] * 4) + r")\s*+\]")
_PLAIN = r"[-+]?\d++\.?\d*+"
_PAIR = re.compile(rf"[\[(]\s*+({_PLAIN})\s*+,\s*+({_PLAIN})\s*+[\])]")
_TUPLE = re.compile(rf"\(({_PLAIN}(?:,\s*+{_PLAIN})*+)\)")


def first_box(text: str, row: Mapping[str, Any]) -> Box | None:
    """Read the first four numbers in brackets, else the first four in the text, including reasoning and keys.

    Args:
        row: may have ``width`` and ``height`` of the image, pixels.

    Returns:
        Left, top, right, bottom on the 0..1000 grid, sorted and clipped to the image; None if there are fewer than
        four numbers, or they are pixels and the row lacks the image size.

    Source: VLMEvalKit 0.0.20, vlmeval/dataset/refcoco.py.
    """
    found = _BRACKETED.search(text)
    numbers = found.groups() if found else re.findall(_NUMBER, text)[:4]
    if len(numbers) < 4:
        return None
    placed = on_grid([float(number) for number in numbers], row)
    if placed is None:
        return None
    a, b, c, d = (min(max(edge, 0.0), float(GRID)) for edge in placed)
    return min(a, c), min(b, d), max(a, c), max(b, d)


def on_grid(numbers: Sequence[float], row: Mapping[str, Any], grid: float = GRID) -> list[float] | None:
    """Convert x, y, x, y, .. to the 0..1000 grid, guessing their scale from the largest number.

    Args:
        row: may have ``width`` and ``height`` of the image, pixels.
        grid: largest number on the grid.

    Returns:
        The coordinates; None if they are pixels and the image size is unknown.
    """
    largest = max(map(abs, numbers))
    if largest <= UNIT:
        return [number * GRID for number in numbers]
    if largest <= grid:
        return list(numbers)
    size = [side for side in (row.get("width"), row.get("height")) if isinstance(side, int | float) and side > 0]
    if len(size) < 2:
        return None
    return [number / size[i % 2] * GRID for i, number in enumerate(numbers)]


def pixels(text: str, width: int, height: int) -> list[tuple[int, int]]:
    """Read every pair of numbers in brackets: fractions of the image if one has a decimal point, else grid points.

    Returns:
        Columns and rows, which may be outside the image.

    Source: lmms-eval 0.7.3, lmms_eval/tasks/_task_utils/point_format.py.
    """
    found = []
    for pair in _PAIR.findall(text):
        scale = 1 if "." in "".join(pair) else GRID
        at = [float(number) / scale * side for number, side in zip(pair, (width, height), strict=True)]
        # outside every image; the suite would stop with an error
        column, line = (int(place) if math.isfinite(place) else -1 for place in at)
        found.append((column, line))
    return found


def first_point(text: str, row: Mapping[str, Any]) -> Point | None:
    """Read the first point of a JSON or Python list of ``point_2d``, else the first tuple of numbers in the text.

    A list of more than ``MAX_LITERAL`` characters is read as text. A tuple of four numbers is a box, whose first corner
    counts; tuples beyond ``UNIT`` are pixels.

    Args:
        row: may have ``width`` and ``height`` of the image, pixels.

    Returns:
        x and y on the 0..1000 grid; None without a point, or for pixels if the image size is unknown.

    Source: VLMEvalKit 0.0.20, vlmeval/dataset/utils/spatial_bench/tools/utils.py, Point2DParser, without the hint whose
    error makes the suite count every such answer as wrong.
    """
    listed = [pair for item in _items(text) if (pair := _pair(item)) is not None]
    if listed:
        return _placed(listed[0], row, GRID)
    for found in _TUPLE.findall(text):
        numbers = [float(number) for number in found.split(",")]
        if len(numbers) == 2:
            return _placed(numbers, row, UNIT)
        if len(numbers) == 4 and (box := on_grid(numbers, row, UNIT)) is not None:
            a, b, c, d = box
            if a != c and b != d:
                return min(a, c), min(b, d)
    return None


def _placed(pair: Sequence[float], row: Mapping[str, Any], grid: float) -> Point | None:
    placed = on_grid(pair, row, grid)
    return None if placed is None else (placed[0], placed[1])


def _items(text: str) -> list[Any]:
    body = text.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2] if "\n" in body else body.lstrip("`")
        body = body.strip().removesuffix("```").strip()
    if len(body) > MAX_LITERAL:
        return []
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(body)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if value is not None:
            return [value] if isinstance(value, dict) else value if isinstance(value, list) else []
    return []


def _pair(item: Any) -> list[float] | None:
    point = (item.get("point_2d") or item.get("point")) if isinstance(item, dict) else None
    if not isinstance(point, list | tuple) or len(point) != 2:
        return None
    try:
        return [float(number) for number in point]
    except (TypeError, ValueError, OverflowError):
        return None
