"""Checks of a row in canonical shape that need no image decoding."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_g2rpo.data.media.image_paths import image_sources
from lit_g2rpo.data.media.row_media import clips, texts_of
from lit_g2rpo.data.media.videos import videos_can_be_read
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmarks import benchmark_error
from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.answers.text import fold
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.gold import demonstration_error, gold_error
from lit_g2rpo.rewards.problem_types import problem_type_named
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO
from lit_g2rpo.rewards.rows.options import letter_of, option_text
from lit_g2rpo.rewards.rows.values import shown
from lit_g2rpo.tasks import Task

MARKS = re.compile(
    r"<\|(?!(?:object_ref|box|quad)_(?:start|end)\|)[a-z][a-z0-9_]{2,}\|>|\[/?INST\]|<(?:start|end)_of_turn>"
    r"|<bbox>|<ref-object>|<image[ _-]?\d+>|<start_of_image>|\[IMG\]|<</?SYS>>|<\uff5c[^<>]{2,30}\uff5c>"
    r"|<loc_?\d+>|\A\s*<s>|</s>\s*\Z|<(?!(?-i:image>))image>",
    re.IGNORECASE,
)
"""Marks of chat templates, and of images and boxes in other formats."""
TURNS = re.compile(r"""(?:<image>)*\W*(?:array\()?\W*["']?(?:role|from|content|value)\\*["']\s*:\s*\\*["'\[]""")
"""Beginnings of turns that are stored as text but cannot be parsed."""


def check_row(
    row: dict[str, Any],
    place: str,
    tasks: Mapping[str, Task],
    image_root: Path,
    reward: RewardConfig,
    answered: bool = True,
) -> None:
    """Check everything about a row that does not require decoding its images.

    Args:
        row: the row, in canonical shape.
        place: how messages name the row: file and number.
        tasks: the tasks of the run.
        answered: the row must have its answer; rows for prediction need none.

    Raises:
        UserError: naming the row, what is wrong and what would be right.
    """
    problem = row_error(row, tasks, answered)
    if problem:
        raise UserError(f"{place}: {problem}")
    image_sources(row, image_root, place)
    clips(row, image_root, place)
    # rows of a task with a custom reward may have any answer
    if tasks[row["task_type"]].reward:
        return
    if "answer" in row and (error := gold_error(row, reward)):
        raise UserError(f"{place}: {error}")
    if error := demonstration_error(row, reward):
        raise UserError(f"{place}: {error}")


def row_error(row: dict[str, Any], tasks: Mapping[str, Task], answered: bool = True) -> str | None:
    """Say what is wrong with the columns of a row, ignoring its images and the value of its answer.

    Args:
        row: the row, in canonical shape.
        tasks: the tasks of the run.
        answered: the row must have its answer.

    Returns:
        One line; None if nothing is wrong.
    """
    if (row.get("videos") or any(VIDEO in text for text in texts_of(row))) and not videos_can_be_read():
        return "is a video row, which needs the extra video: pip install 'lit_g2rpo[video]'"
    if not row["problem"].strip():
        return "'problem' is empty; it must be a text"
    if answered and "answer" not in row:
        return "no answer; give it in 'answer', or name its column in data.columns.answer (--column answer=..)"
    if row["problem_type"] is None:
        return "no problem_type; give it in 'problem_type'"
    try:
        problem_type_named(row["problem_type"])
    except UserError as error:
        return str(error)
    if row["task_type"] is None:
        return (
            "no task_type, and neither data_source nor problem_type settles it; give one of "
            f"{', '.join(tasks)}, or one for all rows in data.defaults.task_type (--default task_type=..)"
        )
    if not isinstance(row["task_type"], str) or row["task_type"] not in tasks:
        own = row["task_type"] == row.get("task")
        instead = ", or data.defaults.task_type (--default task_type=..) takes the place of 'task'" if own else ""
        return f"unknown task_type {shown(row['task_type'])}; known: {', '.join(tasks)}; data.tasks adds one{instead}"
    if not isinstance(row.get("demonstration"), str | None):
        return f"'demonstration' is {shown(row['demonstration'])}; it must be a text"
    if answered and (wrong := benchmark_error(row)):
        return wrong
    texts = texts_of(row)
    marks = (MARKS.search(text) for text in (*texts, *row["options"]) if "<" in text or "[" in text)
    if mark := next(filter(None, marks), None):
        return f"{mark[0]} in 'problem' or 'options' is a mark of another format or a chat template; leave it out"
    if TURNS.match(row["problem"]):
        return f"'problem' is {shown(row['problem'])}, turns as a text that is no JSON; give them as a list, or as JSON"
    places = sum(text.count(IMAGE) for text in texts)
    if places != len(row["images"]):
        return f"{places} {IMAGE} in 'problem' but {len(row['images'])} images; there must be one each"
    places, videos = sum(text.count(VIDEO) for text in texts), len(row.get("videos") or [])
    if places != videos:
        return f"{places} {VIDEO} in 'problem' but {videos} videos; there must be one each"
    return _options_error(row["options"])


def _options_error(options: list[str]) -> str | None:
    letters = [letter_of(option) for option in options]
    if any(letter and letter != own for letter, own in zip(letters, LETTERS, strict=False)):
        return f"'options' begin with {', '.join(filter(None, letters))}; they must begin with A, B, C and so on"
    if len(options) == 1:
        return f"'options' has only {shown(options[0])}; give two or more, or none and the answer itself"
    places: dict[str, str] = {}
    for option, letter in zip(options, LETTERS, strict=False):
        text = fold(option_text(option))
        if not text:
            return f"option {letter} is empty; give its text"
        if (first := places.setdefault(text, letter)) != letter:
            return f"options {first} and {letter} are both {shown(text)}; they must differ"
    return None
