"""Data rows in the form of OneThinker and OpenVLThinkerV2: what a row must hold, and its way to a prompt."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.rewards import PROBLEM_TYPES, score
from lit_g2rpo.rewards.choice import LETTERS
from lit_g2rpo.tasks import IMAGE_PLACE, build_messages

TASK_OF_PROBLEM_TYPE = {
    "spatial grounding": "spatial_grounding",
    "regression": "spatial_reasoning",
    "math": "math_reasoning",
    "OCR": "ocr",
}
"""Task of a row that names none, where the problem type settles it."""


def task_of(row: dict[str, Any]) -> str | None:
    """Returns the task a row names, or the one its problem type settles, or None."""
    return row.get("task_type") or TASK_OF_PROBLEM_TYPE.get(row.get("problem_type", ""))


def image_paths(row: dict[str, Any], image_root: Path, place: str) -> list[Path]:
    """Finds the images of a row.

    Args:
        row: the row.
        image_root: folder that the paths are relative to.
        place: how messages name the row.

    Returns:
        Their paths.

    Raises:
        UserError: if a path leaves the folder.
    """
    root = os.path.abspath(image_root)
    paths = []
    for name in row.get("images") or []:
        # Lexical on purpose: a link inside the folder to another disk is the user's own doing.
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root + os.sep):
            raise UserError(f"{place}: image {name!r} lies outside data.image_root {image_root}; use a path inside it")
        paths.append(Path(path))
    return paths


def check_row(row: dict[str, Any], place: str, tasks: Collection[str], image_root: Path, answered: bool = True) -> None:
    """Checks everything about a row that can be seen without decoding its images.

    Args:
        row: the row.
        place: how messages name the row: file and number.
        tasks: names of the tasks of the run.
        image_root: folder of the images.
        answered: the row must hold its answer; one that is only to be predicted need not.

    Raises:
        UserError: naming the row, what is wrong and what would be right.
    """
    answered = answered or "answer" in row
    for key in ("problem", "problem_type", *(["answer"] if answered else [])):
        if not isinstance(row.get(key), str):
            raise UserError(f"{place}: {key!r} is {row.get(key)!r}; it must be a text")
    for key in ("task_type", "demonstration"):
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{place}: {key!r} is {row[key]!r}; it must be a text")
    for key in ("options", "images"):
        values = row.get(key) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{place}: {key!r} is {values!r}; it must be a list of texts")
    if row["problem_type"] not in PROBLEM_TYPES:
        known = ", ".join(PROBLEM_TYPES)
        raise UserError(f"{place}: unknown problem_type {row['problem_type']!r}; known: {known}")
    if task_of(row) not in tasks:
        raise UserError(f"{place}: unknown task_type {row.get('task_type')!r}; known: {', '.join(tasks)}")
    if row.get("data_type", "image") not in ("image", "text"):
        raise UserError(f"{place}: data_type {row['data_type']!r} is not supported; give 'image' or 'text'")
    _check_images(row, place, image_root)
    if answered:
        _check_answer(row, place)


def to_prompt(row: dict[str, Any], id: str, images: list[Image.Image]) -> Prompt:
    """Makes a prompt of a checked row.

    Args:
        row: the row.
        id: name of the prompt.
        images: its opened images.

    Returns:
        The prompt.
    """
    messages = build_messages(row["problem"], row.get("options") or [], row["problem_type"], len(images))
    task = task_of(row)
    assert task is not None
    return Prompt(id, task, row["problem_type"], messages, images, row, row.get("demonstration"))


def _check_images(row: dict[str, Any], place: str, image_root: Path) -> None:
    paths = image_paths(row, image_root, place)
    places = row["problem"].count(IMAGE_PLACE)
    if places != len(paths):
        raise UserError(f"{place}: {places} {IMAGE_PLACE} in 'problem' but {len(paths)} images; there must be one each")
    for path in paths:
        if not path.is_file():
            raise UserError(f"{place}: no image file {path}; check 'images' and data.image_root")


def _check_answer(row: dict[str, Any], place: str) -> None:
    options = row.get("options") or []
    # The gold answer must pass its own reward; that covers letters out of range, boxes out of order, and the like.
    result = score(f"<thinking></thinking><answer>{_inner(row['answer'])}</answer>", row)
    if result.accuracy == 1.0:
        return
    wanted = {
        "multiple choice": f"a letter from A to {LETTERS[min(len(options), 26) - 1]}" if options else "a letter",
        "spatial grounding": '{"boxes": [x1, y1, x2, y2]} with 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000',
        "numerical": "a plain number",
        "regression": "a plain number",
    }.get(row["problem_type"], "a text that is not empty, without tags")
    raise UserError(f"{place}: answer {row['answer']!r} cannot be scored ({result.error}); it must be {wanted}")


def _inner(answer: str) -> str:
    return answer.strip().removeprefix("<answer>").removesuffix("</answer>")
