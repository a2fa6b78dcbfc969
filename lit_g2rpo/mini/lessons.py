"""Supervised data of the embedded policy before reinforcement: generic lessons, and few demonstrations of the tasks."""

from collections.abc import Sequence

from typing_extensions import override

from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini.data import EVALUATION_SEED, MiniDataset
from lit_g2rpo.mini.pretraining import make_lesson, to_prompt
from lit_g2rpo.mini.tasks import TASKS
from lit_g2rpo.tasks import Task

TURNS = (
    *("boxes", "row", "pairs", "boxes", "inventory", "sums", "bars", "cells", "row", "boxes"),
    *("pairs", "row", "boxes", "inventory", "sums", "bars", "cells", "row", "pairs", "boxes"),
)
"""The lesson of each row in a cycle of twenty; boxes and rows take the longest to learn."""

STREAMS = tuple(f"lessons {number}" for number in range(9))
"""Every task has the same share of a batch: with nine streams of lessons and six tasks, 0.6 of it are lessons."""


class TaughtRows:
    """Demonstrations of each task, then rows of lessons.

    Args:
        demonstrations: rows per task, drawn from training images.
        lessons: rows of lessons.
        seed: seed of the rows.
        careful: use demonstrations without errors, for comparison.
    """

    def __init__(self, demonstrations: int, lessons: int, seed: int, careful: bool = False) -> None:
        self.shown = MiniDataset("train", demonstrations, seed, careful)
        self.lessons, self.seed = lessons, seed

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.shown) + self.lessons

    def __getitem__(self, index: int) -> Prompt:
        """Draw a row with a completion to imitate."""
        if index < len(self.shown):
            return self.shown[index]
        number = index - len(self.shown)
        name = TURNS[number % len(TURNS)]
        lesson = make_lesson(name, number, "train", self.seed)
        return to_prompt(lesson, f"{name}-{number}", STREAMS[number % len(STREAMS)])

    def task_names(self) -> Sequence[str]:
        """Return the task of each row."""
        streams = [STREAMS[number % len(STREAMS)] for number in range(self.lessons)]
        return [*self.shown.task_names(), *streams]


class MiniLessons(PromptData):
    """Supervised data of the embedded policy.

    Args:
        demonstrations: demonstrations per task; 0 for only lessons, without validation.
        lessons: rows of lessons, more than are trained on.
        seed: seed of the rows.
        careful: use demonstrations without errors, for comparison.
    """

    def __init__(self, demonstrations: int = 0, lessons: int = 90_000, seed: int = 0, careful: bool = False) -> None:
        super().__init__(max_completion_tokens=64, rollouts_per_epoch=100, val_batch_size=120)
        self.demonstrations, self.lessons, self.seed, self.careful = demonstrations, lessons, seed, careful

    @override
    def default_tasks(self) -> dict[str, Task]:
        return {name: Task(name) for name in (*TASKS, *STREAMS)}

    @override
    def train_dataset(self) -> TaughtRows:
        return TaughtRows(self.demonstrations, self.lessons, self.seed, self.careful)

    @override
    def val_dataset(self) -> MiniDataset | None:
        return MiniDataset("validation", 120, EVALUATION_SEED) if self.demonstrations else None
