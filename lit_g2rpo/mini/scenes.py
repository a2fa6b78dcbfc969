"""The six scenes of the mini tasks: the drawing, the question, and the facts that a careful reader sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lit_g2rpo.mini.images import SIDE, Canvas, Item, shape_ink
from lit_g2rpo.mini.sources import tables

DIRECTIONS = ("left", "right", "above", "below")
COUNTS = ("1", "2", "3", "4")
PLACES = ("left", "middle", "right")
BAR_WIDTH = 14
UNIT = 3


@dataclass(slots=True)
class Scene:
    """A drawn image with its question and the facts that answer it.

    Args:
        options: option texts of a multiple choice question, empty otherwise.
        facts: whole numbers that a careful reader gets from the image, in the order `annotator.write` expects.
    """

    canvas: Canvas
    question: str
    options: tuple[str, ...]
    facts: tuple[int, ...]


def place_digit(canvas: Canvas, label: int, height: int, gap: int = 2) -> Item | None:
    """Draw a digit, `height` pixels high, at a free place; return None if there is no room."""
    ink = canvas.digit_stamp(label, height, height)
    spot = canvas.free_spot(ink.shape[1], height, gap)
    return canvas.stamp("digit", label, ink, *spot) if spot else None


def place_shape(canvas: Canvas, kind: str, side: int) -> Item | None:
    """Draw a `cross` or a `ring`, `side` pixels wide, at a free place; return None if there is no room."""
    spot = canvas.free_spot(side, side)
    return canvas.stamp(kind, 0, shape_ink(kind, side), *spot) if spot else None


def row_of_digits(canvas: Canvas, count: int) -> tuple[int, ...]:
    """Draw the given number of digits side by side, as in a house number, and return them from left to right."""
    rng, slot = canvas.rng, SIDE // max(count, 3)
    start = int(rng.integers(SIDE - slot * count + 1))
    base = int(rng.integers(4, SIDE - 24))
    labels = tuple(int(label) for label in rng.integers(0, 10, count))
    for position, label in enumerate(labels):
        ink = canvas.digit_stamp(label, int(rng.integers(14, 19)), slot - 1)
        left = start + position * slot + int(rng.integers(slot - ink.shape[1] + 1))
        canvas.stamp("digit", label, ink, left, base + int(rng.integers(5)))
    return labels


def grounding(canvas: Canvas) -> Scene:
    """Draw one digit beside one shape and ask for the digit's box; facts: label, then the box in pixels."""
    rng = canvas.rng
    item = place_digit(canvas, int(rng.integers(10)), int(rng.integers(16, 31)))
    assert item is not None, "the first item always fits"
    place_shape(canvas, str(rng.choice(["cross", "ring"])), int(rng.integers(10, 17)))
    return Scene(canvas, "Find the digit.", (), (item.value, *item.box))


def spatial(canvas: Canvas, kinds: tuple[str, str] = ("digit", "cross")) -> Scene:
    """Draw two things and ask on which side of the second the first is; fact: index of the direction."""
    rng = canvas.rng
    while True:
        spots = rng.integers(8, SIDE - 8, (2, 2))
        across, down = (int(value) for value in spots[0] - spots[1])
        if max(abs(across), abs(down)) >= 18 and abs(abs(across) - abs(down)) >= 4:
            break
    for kind, (x, y) in zip(kinds, spots, strict=True):
        label = int(rng.integers(10)) if kind == "digit" else 0
        ink = canvas.digit_stamp(label, int(rng.integers(13, 17)), 16) if kind == "digit" else shape_ink(kind, 12)
        canvas.stamp(kind, label, ink, int(x) - ink.shape[1] // 2, int(y) - ink.shape[0] // 2)
    side = int(across > 0) if abs(across) > abs(down) else 2 + int(down > 0)
    return Scene(canvas, f"Where is the {kinds[0]} from the {kinds[1]}?", DIRECTIONS, (side,))


def counting(canvas: Canvas) -> Scene:
    """Draw one to four digits among shapes and ask how many digits there are; fact: the count."""
    rng = canvas.rng
    wanted = int(rng.integers(1, 5))
    placed = [place_digit(canvas, int(rng.integers(10)), int(rng.integers(13, 17))) for _ in range(wanted)]
    for _ in range(int(rng.integers(1, 3))):
        place_shape(canvas, str(rng.choice(["cross", "ring"])), int(rng.integers(10, 14)))
    return Scene(canvas, "How many digits are there?", COUNTS, (sum(item is not None for item in placed),))


def arithmetic(canvas: Canvas) -> Scene:
    """Draw two digits and ask for twice their sum; facts: the digits."""
    return Scene(canvas, "Add the two digits, then double the sum.", (), row_of_digits(canvas, 2))


def chart(canvas: Canvas) -> Scene:
    """Draw three values of a measured table as bars and ask for one; facts: which bar, then the three heights."""
    rng = canvas.rng
    table = tables(canvas.split)[int(rng.integers(3))]
    values = table[int(rng.integers(len(table)))][rng.permutation(table.shape[1])[:3]]
    for place, value in enumerate(int(value) for value in values):
        ink = np.ones((value * UNIT, BAR_WIDTH), dtype=np.float32)
        canvas.stamp("bar", value, ink, 4 + 21 * place, SIDE - 2 - value * UNIT)
    asked = int(rng.integers(3))
    return Scene(canvas, f"How high is the {PLACES[asked]} bar?", (), (asked, *(int(value) for value in values)))


def reading(canvas: Canvas) -> Scene:
    """Draw three or four digits in a row and ask to read them; facts: the digits."""
    return Scene(canvas, "Read the digits.", (), row_of_digits(canvas, int(canvas.rng.integers(3, 5))))


SCENES: dict[str, tuple[str, Callable[[Canvas], Scene]]] = {
    "spatial_grounding": ("spatial grounding", grounding),
    "spatial_reasoning": ("multiple choice", spatial),
    "general_vqa_science_stem": ("multiple choice", counting),
    "math_reasoning": ("math", arithmetic),
    "chart_figure_qa": ("numerical", chart),
    "ocr": ("OCR", reading),
}
