"""Generic perception lessons that precede the tasks: descriptions of images and sums of text, endless and clean.

None of them asks a question of a task or uses the answer tags; they give the policy the circuits (finding, reading,
measuring, adding) that a real vision-language model brings from its own pre-training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini import scenes
from lit_g2rpo.mini.annotator import box_answer
from lit_g2rpo.mini.images import SIDE, Canvas, Item
from lit_g2rpo.mini.sources import SPLITS

CELLS = 4


@dataclass(slots=True, frozen=True)
class Lesson:
    """One pre-training sample: an image or none, a request, and the completion to imitate."""

    image: Image.Image | None
    request: str
    completion: str


def _name(item: Item) -> str:
    return str(item.value) if item.kind == "digit" else item.kind


def boxes(canvas: Canvas) -> Lesson:
    """Ask for the kind and the exact box of a single object, or of a digit and then of the shape beside it."""
    rng, choice = canvas.rng, canvas.rng.random()
    if choice < 0.4:
        scenes.place_digit(canvas, int(rng.integers(10)), int(rng.integers(14, 31)))
    elif choice < 0.5:
        scenes.place_shape(canvas, str(rng.choice(["cross", "ring"])), int(rng.integers(10, 17)))
    else:
        (scenes.grounding if choice < 0.8 else scenes.spatial)(canvas)
    text = ";".join(f"{_name(item)}{box_answer(item.box)}" for item in canvas.items)
    return Lesson(canvas.image(), "List every box.", text)


def pairs(canvas: Canvas) -> Lesson:
    """Ask for the position of one thing relative to another."""
    side = scenes.spatial(canvas, tuple(canvas.rng.choice(["digit", "cross", "ring"], 2, replace=False))).facts[0]
    first, second = canvas.items
    return Lesson(canvas.image(), "Describe the pair.", f"{_name(first)} {scenes.DIRECTIONS[side]} {_name(second)}")


def inventory(canvas: Canvas) -> Lesson:
    """Ask for everything in the image, from left to right."""
    scenes.counting(canvas)
    items = sorted(canvas.items, key=lambda item: item.centre)
    return Lesson(canvas.image(), "List everything.", ",".join(_name(item) for item in items))


def row(canvas: Canvas) -> Lesson:
    """Ask for the digits of a row, one by one."""
    labels = scenes.row_of_digits(canvas, int(canvas.rng.integers(2, 5)))
    return Lesson(canvas.image(), "List the row.", ",".join(map(str, labels)))


def bars(canvas: Canvas) -> Lesson:
    """Ask for the heights of all bars."""
    facts = scenes.chart(canvas).facts
    return Lesson(canvas.image(), "List the bars.", ",".join(map(str, facts[1:])))


def cells(canvas: Canvas) -> Lesson:
    """Ask for the digit in each cell of a grid; empty cells are dots."""
    rng, side = canvas.rng, SIDE // CELLS
    text = ""
    for down in range(CELLS):
        for across in range(CELLS):
            if rng.random() < 0.4:
                text += "."
                continue
            label = int(rng.integers(10))
            ink = canvas.digit_stamp(label, int(rng.integers(12, 16)), side - 1)
            left = across * side + int(rng.integers(side - ink.shape[1] + 1))
            canvas.stamp("digit", label, ink, left, down * side + int(rng.integers(side - ink.shape[0] + 1)))
            text += str(label)
        text += "/"
    return Lesson(canvas.image(), "Copy the grid.", text)


def sums(rng: np.random.Generator) -> Lesson:
    """Ask for four sums of two digits, or doubles of a number up to 18, without an image."""
    asked = []
    for _ in range(4):
        first, second = (int(value) for value in rng.integers(0, 10, 2))
        asked.append((first + second,) * 2 if rng.random() < 0.4 else (first, second))
    request = ";".join(f"{first}+{second}" for first, second in asked)
    return Lesson(None, request, ";".join(f"{first}+{second}={first + second}" for first, second in asked))


LESSONS: dict[str, Callable[[Canvas], Lesson]] = {
    "boxes": boxes,
    "pairs": pairs,
    "inventory": inventory,
    "row": row,
    "bars": bars,
    "cells": cells,
}


def make_lesson(name: str, index: int, split: str, seed: int) -> Lesson:
    """Generate a lesson; the same arguments always give the same one.

    Args:
        name: a key of `LESSONS`, or `sums`.
        index: position in the endless stream of the lesson.
        split: `train` or `validation`.
        seed: seed of the stream.

    Raises:
        KeyError: if the lesson is unknown.
    """
    names = (*LESSONS, "sums")
    if name not in names:
        raise KeyError(f"unknown lesson {name!r}: choose one of {', '.join(names)}")
    rng = np.random.default_rng([seed, 100 + names.index(name), SPLITS.index(split), index])
    return sums(rng) if name == "sums" else LESSONS[name](Canvas(rng, split))


def to_prompt(lesson: Lesson, identity: str, task: str) -> Prompt:
    """Turn a lesson into a prompt with its completion as demonstration.

    Args:
        identity: name of the data row.
        task: task it counts for.
    """
    images = [lesson.image] if lesson.image else []
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": lesson.request}]
    return Prompt(
        id=identity,
        task=task,
        problem_type="OCR",
        messages=[{"role": "user", "content": content}],
        images=images,
        sample={"problem_type": "OCR", "answer": f"<answer>{lesson.completion}</answer>"},
        demonstration=lesson.completion,
    )
