"""The mini tasks as training and evaluation data."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini.tasks import TASKS, make_sample, to_prompt
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.tasks import Task

EVALUATION_SEED = 1_000_003
"""Unlike any training seed that a user would choose; evaluation prompts never depend on the run's seed."""


class MiniDataset:
    """Rows ``0 .. per_task * 6 - 1`` of the mini tasks, with tasks in turn; each row is drawn on access.

    Args:
        split: ``train`` or ``validation``; decides which source images may appear.
        per_task: rows per task.
        seed: seed of the rows.
        careful: use demonstrations without errors, for comparison.
    """

    def __init__(self, split: str, per_task: int, seed: int, careful: bool = False) -> None:
        self.split, self.per_task, self.seed, self.careful = split, per_task, seed, careful

    def __len__(self) -> int:
        """Count the rows."""
        return self.per_task * len(TASKS)

    def __getitem__(self, index: int) -> Prompt:
        """Draw a row."""
        task, number = TASKS[index % len(TASKS)], index // len(TASKS)
        sample = make_sample(task, number, self.split, self.seed)
        return to_prompt(sample, sample.solution if self.careful else sample.demonstration)

    def task_names(self) -> Sequence[str]:
        """Return the task of each row."""
        return TASKS * self.per_task


class MiniPrompts(PromptData):
    """The embedded default: six small visual tasks drawn from real images, without a download.

    Args:
        seed: seed of the training rows.
        train_per_task: training rows per task.
        val_per_task: validation rows per task; their images are never trained on.
        test_per_task: test rows per task, which are other drawings of the validation images.
        max_completion_tokens: longest completion, tokens.
        val_batch_size: prompts per evaluation batch and process.
        rollouts_per_epoch: rollouts per epoch.
        **options: see ``PromptData``.
    """

    def __init__(
        self,
        seed: int = 0,
        train_per_task: int = 20_000,
        val_per_task: int = 120,
        test_per_task: int = 500,
        max_completion_tokens: int = 40,
        val_batch_size: int = 120,
        rollouts_per_epoch: int | None = 100,
        **options: Any,
    ) -> None:
        super().__init__(
            max_completion_tokens=max_completion_tokens,
            val_batch_size=val_batch_size,
            rollouts_per_epoch=rollouts_per_epoch,
            **options,
        )
        for name, task in self.tasks.items():
            if task.prompt_template is not None:
                raise UserError(f"data.tasks.{name}.prompt_template: MiniPrompts has prompts of its own; leave it out")
        for key, size in {"train_per_task": train_per_task, "val_per_task": val_per_task}.items():
            if size < 1:
                raise UserError(f"data.{key} is {size}; it must be 1 or more")
        if seed < 0:
            raise UserError(f"data.seed is {seed}; it must be 0 or more")
        self.seed, self.train_per_task = seed, train_per_task
        self.val_per_task, self.test_per_task = val_per_task, test_per_task

    @override
    def default_tasks(self) -> dict[str, Task]:
        reasoning, short = LengthBand(6, 12, 30, 40), LengthBand(4, 8, 20, 32)
        bands = {task: reasoning if task == "math_reasoning" else short for task in TASKS}
        bands["spatial_grounding"] = LengthBand(8, 14, 30, 40)
        return {task: Task(task, length=bands[task], entropy=EntropyBand(0.02, 0.6)) for task in TASKS}

    @override
    def train_dataset(self) -> MiniDataset:
        return MiniDataset("train", self.train_per_task, self.seed)

    @override
    def val_dataset(self) -> MiniDataset:
        return MiniDataset("validation", self.val_per_task, EVALUATION_SEED)

    @override
    def test_dataset(self) -> MiniDataset:
        return MiniDataset("validation", self.test_per_task, EVALUATION_SEED + 1)
