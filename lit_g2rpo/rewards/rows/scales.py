"""Scales of boxes and points: pixels, fractions of the image, or the 0..1000 grid."""

from collections.abc import Callable, Mapping
from typing import Any

SCALES = {"real": "pixels", "norm1": "fractions from 0 to 1", "norm1000": "the grid 0..1000"}
"""Values of the column ``bbox_type``, a name from ms-swift."""
GRID = 1000


class SizeNeeded(ValueError):
    """A row has a box in pixels but no image size in columns ``width`` and ``height``."""


def is_box(value: Any, length: int = 4) -> bool:
    """Return whether this is a list of four numbers, or of another count."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    )


def numbers(value: Any) -> list[float]:
    """Collect the coordinates of boxes and points, but not times."""
    if isinstance(value, dict):
        return [figure for key, item in value.items() if key != "time" for figure in numbers(item)]
    if isinstance(value, list):
        return [figure for item in value for figure in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def scaled(value: Any, change: Callable[[list[float]], list[float]]) -> Any:
    """Convert every box and point in an answer, but not times."""
    if is_box(value) or is_box(value, 2):
        return change(value)
    if isinstance(value, dict):
        return {key: item if key == "time" else scaled(item, change) for key, item in value.items()}
    return [scaled(item, change) for item in value] if isinstance(value, list) else value


def to_grid(value: Any, row: Mapping[str, Any], scale: str | None, column: str, usual: str | None = None) -> Any:
    """Convert the boxes and points of an answer to the 0..1000 grid without rounding.

    Args:
        value: boxes and points, in lists and objects.
        row: the row, with the size of its image.
        scale: one of ``SCALES``; None to infer it from the numbers.
        column: their column, for messages.
        usual: the usual scale of that column and spelling, for boxes that are not fractions.

    Raises:
        SizeNeeded: if the row lacks the image size and it is needed.
        ValueError: if they lie outside the image, or the scale is ambiguous.
    """
    figures = numbers(value)
    if scale is not None and scale not in SCALES:
        known = ", ".join(f"{name} ({meaning})" for name, meaning in SCALES.items())
        raise ValueError(f"bbox_type {scale!r}; it must be one of {known}")
    if scale is None and figures and max(figures) <= 1:
        scale = "norm1"
    if scale is None and usual == "norm1000" and max(figures, default=0) > GRID:
        raise ValueError(f"{column!r} holds a box beyond {GRID}; say what it counts: {_option('real')}")
    if scale is None:
        scale = usual or _told(value, row, column)
    if scale == "norm1":
        if figures and (min(figures) < 0 or max(figures) > 1):
            raise ValueError(f"bbox_type is norm1, but {value} goes beyond 0 to 1")
        return scaled(value, lambda box: [figure * GRID for figure in box])
    return scaled(value, lambda box: on_grid(box, row)) if scale == "real" else value


def on_grid(box: list[float], row: Mapping[str, Any]) -> list[float]:
    """Convert a box (x1, y1, x2, y2) or point from pixels to 0..1000 without rounding.

    Raises:
        SizeNeeded: if the row lacks the size of its image.
        ValueError: if it lies outside the image.
    """
    width, height = _size(row)
    grid = [value * GRID / side for value, side in zip(box, (width, height) * (len(box) // 2), strict=True)]
    # rounding lets annotations overhang the image; farther out, they belong to another image or scale
    if not all(-10 <= value <= GRID + 10 for value in grid):
        raise ValueError(
            f"box {box} in pixels lies outside its image of {width} x {height}; if it does not count pixels, give "
            f"{_option('norm1000')}"
        )
    return [min(max(value, 0.0), float(GRID)) for value in grid]


def _told(value: Any, row: Mapping[str, Any], column: str) -> str:
    """Distinguish pixels from the grid if the numbers fit only one of them."""
    if max(numbers(value)) > GRID:
        return "real"
    _size(row)
    try:
        scaled(value, lambda box: on_grid(box, row))
    except SizeNeeded:
        raise
    except ValueError:
        return "norm1000"
    raise ValueError(
        f"{column!r} holds a box that may count pixels or the grid 0..{GRID}; say which: {_option('real')} or norm1000"
    )


def _option(scale: str) -> str:
    return f"column bbox_type or data.defaults.bbox_type (--default bbox_type={scale})"


def _size(row: Mapping[str, Any]) -> tuple[int, int]:
    width, height = row.get("width"), row.get("height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        raise SizeNeeded("its box is in pixels; the size of the image is needed in columns 'width' and 'height'")
    return width, height
