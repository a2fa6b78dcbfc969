"""Rows of files as prompts."""

import os
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from PIL import Image

from lit_g2rpo.data.files.passed_checks import PassedCheck
from lit_g2rpo.data.files.readers import expanded, read_rows
from lit_g2rpo.data.files.row_errors import check_row
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.media.row_media import media_sizes, open_media, texts_of
from lit_g2rpo.data.messages import TEMPLATE, build_messages
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmarks import BENCHMARKS
from lit_g2rpo.experience import Prompt, Video
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.rewards import PROBLEM_TYPES
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO
from lit_g2rpo.tasks import Task


class JsonRows:
    """Rows of one or several files, checked at construction unless they passed before, and opened on access.

    A row with several phrases for a box becomes one row per phrase.

    Args:
        files: what ``read_rows`` reads.
        reader: converts the rows to one shape.
        tasks: the tasks a row may have.
        answered: every row must have its answer.
        template: wording of the prompts whose task has none of its own.

    Raises:
        UserError: for an invalid file or row or, on access, an unusable image.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        reader: RowReader,
        tasks: Mapping[str, Task],
        reward: RewardConfig,
        answered: bool = True,
        template: str = TEMPLATE,
    ) -> None:
        self.reader, self.reward = reader, reward
        self._templates = {name: task.prompt_template or template for name, task in tasks.items()}
        began = time.time()
        self._files = [read_rows(file) for file in expanded(files)]
        self._ends = list(accumulate(len(rows) for rows in self._files))
        if not any(self._ends):
            raise UserError(f"{', '.join(map(str, files))}: no rows; give at least one")
        rewards = {name: task.reward for name, task in tasks.items()}
        settings = vars(reader) | {"image_root": reader.image_root.resolve()}
        passed = PassedCheck(self._files, (settings, rewards, reward, answered), began)
        found = passed.recalled()
        if not found:
            found, built_in = self._check(tasks, answered)
            if built_in:
                passed.keep(found)
        self._tasks = [task for line in found for task in line]
        self._starts = array("Q", accumulate((len(line) for line in found[:-1]), initial=0))

    def _check(self, tasks: Mapping[str, Task], answered: bool) -> tuple[list[tuple[str, ...]], bool]:
        """Check every row; return the tasks of each line, and whether only rules of this package were used."""
        found, built_in = [], True
        for rows in self._files:
            with Step(f"checking {rows.name}", len(rows), "rows") as step:
                for index in range(len(rows)):
                    line = self.reader.read(rows, index)
                    for row, place in line:
                        check_row(row, place, tasks, self.reader.image_root, self.reward, answered)
                        built_in = built_in and row["problem_type"] in PROBLEM_TYPES
                        built_in = built_in and row.get("benchmark") in (None, *BENCHMARKS)
                    found.append(tuple(sys.intern(row["task_type"]) for row, _ in line))
                    step.advance()
        return found, built_in

    def __len__(self) -> int:
        return len(self._tasks)

    def task_names(self) -> list[str]:
        """Return the task of each row."""
        return self._tasks

    def __getitem__(self, index: int) -> Prompt:
        row, id, place = self._row(index)
        return self._prompt(row, id, *open_media(row, self.reader, place))

    def outline(self, index: int) -> tuple[Prompt, list[tuple[int, int]]]:
        """Read a row and the size of its images, without decoding them.

        Args:
            index: its number over all files.

        Returns:
            The prompt without its images but with its videos, and width and height of each image, pixels.

        Raises:
            ImageError: naming the row, if an image or video is unusable.
        """
        row, id, place = self._row(index)
        sizes, videos = media_sizes(row, self.reader, place)
        return self._prompt(row, id, [], videos), sizes

    def _prompt(self, row: dict[str, Any], id: str, images: list[Image.Image], videos: Sequence[Video]) -> Prompt:
        return to_prompt(row, id, images, self.reward, videos, self._templates[row["task_type"]])

    def _row(self, index: int) -> tuple[dict[str, Any], str, str]:
        line = bisect_right(self._starts, index) - 1
        phrase = index - self._starts[line]
        file = bisect_right(self._ends, line)
        rows = self._files[file]
        line -= self._ends[file - 1] if file else 0
        found = self.reader.read(rows, line)
        row, place = found[phrase]
        return row, f"{rows.name}:{line + 1}" + (f".{phrase + 1}" if len(found) > 1 else ""), place


def to_prompt(
    row: dict[str, Any],
    id: str,
    images: list[Image.Image],
    reward: RewardConfig,
    videos: Sequence[Video] = (),
    template: str = TEMPLATE,
) -> Prompt:
    """Make a prompt from a checked row.

    Args:
        images: its opened images; empty if only the text is needed.
        reward: names the tags that the prompt asks for.
        videos: its videos.
        template: wording of the prompt, as Jinja text.
    """
    *before, question = texts_of(row)
    roles = [turn["role"] for turn in row.get("earlier_turns", ())]
    n_images, n_videos = (sum(text.count(mark) for text in (question, *before)) for mark in (IMAGE, VIDEO))
    messages = build_messages(
        question,
        row["options"],
        row["problem_type"],
        n_images,
        template=template,
        task=row["task_type"],
        thinking_tag=reward.thinking_tag,
        answer_tag=reward.answer_tag,
        earlier=list(zip(roles, before, strict=True)),
        n_videos=n_videos,
    )
    kind, demonstration = row["problem_type"], row.get("demonstration")
    return Prompt(id, row["task_type"], kind, messages, images, row, demonstration, videos=videos)
