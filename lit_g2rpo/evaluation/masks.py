"""Masks inside a data row: runs of equal pixels, so that a row needs no extra file."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_g2rpo.rewards.answers.points import Point


def encode_mask(mask: NDArray[Any]) -> dict[str, list[int]]:
    """Write a mask as a column of a data row.

    Args:
        mask: ``[height, width]``, or ``[height, width, channels]`` of which only the first is used; set where it is
            True or at least half of 255.

    Returns:
        ``size``: height and width; ``runs``: lengths of runs in reading order, the first one of unset pixels.
    """
    plane = np.asarray(mask if mask.ndim == 2 else mask[:, :, 0])
    bits = (plane if plane.dtype == bool else np.round(plane / 255.0) > 0).ravel()
    edges = np.flatnonzero(np.diff(bits)) + 1
    runs = np.diff([0, *edges, bits.size]).tolist()
    return {"size": list(plane.shape), "runs": [0, *runs] if bits[:1].any() else runs}


def share_in_mask(points: Sequence[Point], mask: Mapping[str, Any]) -> float:
    """Return the fraction of one or more points, on the 0..1000 grid, in a mask; points outside the image miss.

    Raises:
        ValueError: if it is not a mask.

    Source: RefSpatial-Bench of RoboRefer (arXiv 2506.04308), Evaluation/summarize_acc.py.
    """
    height, width = check_mask(mask)
    return share_of_pixels([(int(x / 1000 * width), int(y / 1000 * height)) for x, y in points], mask)


def share_of_pixels(pixels: Sequence[tuple[int, int]], mask: Mapping[str, Any]) -> float:
    """Return the fraction of one or more pixels (column, row) in a mask; pixels outside the image miss.

    Raises:
        ValueError: if it is not a mask.
    """
    height, width = check_mask(mask)
    ends = np.asarray(list(accumulate(mask["runs"])))
    hits = 0
    for column, row in pixels:
        if 0 <= column < width and 0 <= row < height:
            hits += int(np.searchsorted(ends, row * width + column, side="right")) % 2
    return hits / len(pixels)


def check_mask(mask: Any) -> tuple[int, int]:
    """Return height and width, in pixels, of a mask in a data row.

    Raises:
        ValueError: if it is not a mask.
    """
    if not (isinstance(mask, Mapping) and isinstance(mask.get("size"), list) and isinstance(mask.get("runs"), list)):
        raise ValueError("'mask' is no mask; write it with lit_g2rpo.evaluation.masks.encode_mask")
    height, width = mask["size"]
    if sum(mask["runs"]) != height * width:
        raise ValueError(f"'mask' has runs of {sum(mask['runs'])} pixels for a size of {height} x {width}")
    return height, width
