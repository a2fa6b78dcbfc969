"""Data rows: read into one shape, checked, and made into prompts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.data.files.readers import Rows
from lit_g2rpo.data.media.image_paths import image_sources
from lit_g2rpo.data.media.images import image_size, placed
from lit_g2rpo.data.media.media import clips
from lit_g2rpo.data.media.videos import VideoLimits, videos_can_be_read
from lit_g2rpo.data.messages import build_messages
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmarks import benchmark_error
from lit_g2rpo.experience import Prompt
from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.gold import gold_error
from lit_g2rpo.rewards.problem_types import problem_type_named
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO, canonical
from lit_g2rpo.rewards.rows.phrases import has_phrases, phrase_rows
from lit_g2rpo.rewards.rows.targets import SizeNeeded, letter_of
from lit_g2rpo.tasks import Task

MARKS = ("<|image_pad|>", "<|video_pad|>")
"""Tokens of Qwen3-VL that an image or a video takes the place of."""


class RowReader:
    """Read rows of any accepted format into one shape.

    Args:
        image_root: folder that image paths are relative to.
        columns: what the file calls a column, by the name it should have, such as ``{"problem": "query_text"}``.
        defaults: values of columns that a row does not have, such as ``{"task_type": "ocr"}``.
        exif_rotation: turn images as their EXIF data ask.
        video: how many frames of a video are read, and how large; None for the defaults.
    """

    def __init__(
        self,
        image_root: Path,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        exif_rotation: bool = False,
        video: VideoLimits | None = None,
    ) -> None:
        self.image_root, self.columns, self.defaults = image_root, dict(columns or {}), dict(defaults or {})
        self.exif_rotation, self.video = exif_rotation, video or VideoLimits()

    def read(self, rows: Rows, index: int) -> list[tuple[dict[str, Any], str]]:
        """Read a row, one with several phrases for a box as a row for each.

        Args:
            index: number of the row in it.

        Returns:
            The row, or rows, in canonical shape, and how messages name each.

        Raises:
            UserError: naming the row, if it cannot be understood.
        """
        row, place = rows[index], rows.place(index)
        for name, column in self.columns.items():
            if column not in row:
                raise UserError(
                    f"{place}: no column {column!r}, which data.columns.{name} names; it has {', '.join(row)}"
                )
            row[name] = row.pop(column)
        row = self.defaults | {key: value for key, value in row.items() if value is not None}
        try:
            try:
                found = _rows(row)
            except SizeNeeded:
                found = _rows(row | self._size(row, place))
        except ValueError as reason:
            raise UserError(f"{place}: {reason}") from None
        if len(found) == 1:
            return [(found[0], place)]
        return [(one, f"{place}, phrase {number}") for number, one in enumerate(found, 1)]

    def _size(self, row: dict[str, Any], place: str) -> dict[str, int]:
        """The size that boxes in pixels refer to: that of the row's one image."""
        unboxed = canonical({"problem": "", "answer": "", **{k: row[k] for k in ("image", "images") if k in row}})
        sources = image_sources(unboxed, self.image_root, place)
        if len(sources) != 1:
            raise UserError(f"{place}: its box is in pixels, but it has {len(sources)} images; it must have one")
        with placed(place):
            width, height = image_size(sources[0], self.exif_rotation)
        return {"width": width, "height": height}


def _rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [canonical(one) for one in (phrase_rows(row) if has_phrases(row) else [row])]


def check_row(
    row: dict[str, Any],
    place: str,
    tasks: Mapping[str, Task],
    image_root: Path,
    reward: RewardConfig,
    answered: bool = True,
) -> None:
    """Check everything about a row that can be seen without decoding its images.

    Args:
        row: the row, in its canonical shape.
        place: how messages name the row: file and number.
        tasks: the tasks of the run.
        image_root: folder of the images.
        reward: how answers are scored.
        answered: the row must hold its answer; one that is only to be predicted need not.

    Raises:
        UserError: naming the row, what is wrong and what would be right.
    """
    problem = row_error(row, tasks, answered)
    if problem:
        raise UserError(f"{place}: {problem}")
    image_sources(row, image_root, place)
    clips(row, image_root, place)
    # Rows of a task with a custom reward may hold any answer.
    if "answer" in row and not tasks[row["task_type"]].reward and (error := gold_error(row, reward)):
        raise UserError(f"{place}: {error}")


def row_error(row: dict[str, Any], tasks: Mapping[str, Task], answered: bool = True) -> str | None:
    """Say what is wrong with the columns of a row, its images and the value of its answer aside.

    Args:
        row: the row, in its canonical shape.
        tasks: the tasks of the run.
        answered: the row must hold its answer.

    Returns:
        One line; None if nothing is.
    """
    if (row.get("videos") or VIDEO in row["problem"]) and not videos_can_be_read():
        return "is a video row, which needs the extra video: pip install 'lit_g2rpo[video]'"
    if not row["problem"].strip():
        return "'problem' is empty; it must be a text"
    try:
        problem_type_named(row["problem_type"])
    except UserError as error:
        return str(error)
    if row["task_type"] is None:
        return (
            "no task_type, and neither data_source nor problem_type settles it; give one of "
            f"{', '.join(tasks)}, or one for all rows in data.defaults.task_type"
        )
    if not isinstance(row["task_type"], str) or row["task_type"] not in tasks:
        return f"unknown task_type {row['task_type']!r}; known: {', '.join(tasks)}; data.tasks adds one"
    if not isinstance(row.get("demonstration"), str | None):
        return f"'demonstration' is {row['demonstration']!r}; it must be a text"
    if answered and "answer" not in row:
        return "no answer; give it in 'answer'"
    if answered and (wrong := benchmark_error(row)):
        return wrong
    if mark := next((m for m in MARKS if any(m in text for text in (row["problem"], *row["options"]))), None):
        return f"{mark} in 'problem' or 'options' would stand for an image of its own; leave it out"
    places = row["problem"].count(IMAGE)
    if places != len(row["images"]):
        return f"{places} {IMAGE} in 'problem' but {len(row['images'])} images; there must be one each"
    places, videos = row["problem"].count(VIDEO), len(row.get("videos") or [])
    if places != videos:
        return f"{places} {VIDEO} in 'problem' but {videos} videos; there must be one each"
    letters = [letter_of(option) for option in row["options"]]
    if any(letter and letter != own for letter, own in zip(letters, LETTERS, strict=False)):
        return f"'options' begin with {', '.join(filter(None, letters))}; they must begin with A, B, C and so on"
    return None


def to_prompt(
    row: dict[str, Any], id: str, images: list[Image.Image], reward: RewardConfig, question: str | None = None
) -> Prompt:
    """Make a prompt of a checked row.

    Args:
        id: name of the prompt.
        images: its opened images; none where only the text is needed.
        reward: names the tags that the prompt asks for.
        question: its question with an ``<image>`` for each frame of its videos; None for one without videos.

    Returns:
        The prompt.
    """
    question = row["problem"] if question is None else question
    messages = build_messages(
        question,
        row["options"],
        row["problem_type"],
        question.count(IMAGE),
        thinking_tag=reward.thinking_tag,
        answer_tag=reward.answer_tag,
    )
    return Prompt(id, row["task_type"], row["problem_type"], messages, images, row, row.get("demonstration"))
