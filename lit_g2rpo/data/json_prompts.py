"""Rows of JSON files as prompts."""

import os
import sys
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path

from lit_g2rpo.data.images import ImageError, load_image
from lit_g2rpo.data.readers import read_rows
from lit_g2rpo.data.schema import check_row, image_paths, task_of, to_prompt
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt


class JsonRows:
    """Rows of one or several files, checked at construction, opened on access.

    Args:
        files: ``.json`` or ``.jsonl`` files.
        image_root: folder that image paths are relative to.
        tasks: names of the tasks a row may have.
        answered: every row must hold its answer.

    Raises:
        UserError: for a file or row that is not right, or, on access, an image that cannot be used.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        image_root: Path,
        tasks: Collection[str],
        answered: bool = True,
    ) -> None:
        self.image_root = image_root
        self._files = [read_rows(file) for file in files]
        self._ends = list(accumulate(len(rows) for rows in self._files))
        self._tasks: list[str] = []
        for rows in self._files:
            for index in range(len(rows)):
                row = rows[index]
                check_row(row, rows.place(index), tasks, image_root, answered)
                self._tasks.append(sys.intern(task_of(row) or ""))
        if not self._tasks:
            raise UserError(f"{', '.join(map(str, files))}: no rows; give at least one")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._tasks)

    def task_names(self) -> list[str]:
        """Task of each row."""
        return self._tasks

    def __getitem__(self, index: int) -> Prompt:
        """Opens a row.

        Args:
            index: its number over all files.

        Returns:
            The prompt, its images decoded.

        Raises:
            ImageError: naming the row, if an image cannot be used.
        """
        file = bisect_right(self._ends, index)
        rows = self._files[file]
        index -= self._ends[file - 1] if file else 0
        row, place = rows[index], rows.place(index)
        try:
            images = [load_image(path) for path in image_paths(row, self.image_root, place)]
        except ImageError as error:
            raise ImageError(f"{place}: {error}") from error
        return to_prompt(row, f"{rows.path.name}:{index + 1}", images)
