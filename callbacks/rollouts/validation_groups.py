"""The groups of a few validation prompts per task: the same in every validation, on any number of ranks."""

from collections import defaultdict
from collections.abc import Sequence

from PIL.Image import Image

from lit_g2rpo.callbacks.rollouts.record import Record, group_record, small_image
from lit_g2rpo.callbacks.rollouts.token_text import TokenText
from lit_g2rpo.data.evaluation_batches import ShardedBatches
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.training.run import RunHandles


class ValidationGroups:
    """Collect the groups of the first rows of each task while a validation runs.

    Args:
        per_task: number of rows per task.
    """

    def __init__(self, per_task: int) -> None:
        self.per_task = per_task
        self._loader: ShardedBatches | None = None
        self._chosen: set[int] = set()
        self._found: dict[int, Record] = {}
        self._images: dict[int, list[Image]] = {}

    def start(self, loader: object) -> None:
        """Choose the rows of a validation.

        Args:
            loader: its batches; rows are only chosen from `ShardedBatches`, which numbers them.
        """
        self._chosen, self._found = set(), {}
        if isinstance(loader, ShardedBatches):
            self._loader = loader
            self._chosen = set(first_rows(loader.dataset.task_names(), loader.rows, self.per_task))

    def add(self, run: RunHandles, spell: TokenText) -> None:
        """Describe the chosen rows of the batch that was just scored.

        Args:
            spell: spells the tokens.
        """
        batch = run.evaluated
        if batch is None or not self._chosen:
            return
        for index, row in enumerate(batch.rows):
            if row in self._chosen:
                record = group_record(batch, index, run.reward, spell)
                self._found[row] = {"step": run.trainer.global_step, **record}
                self._images.setdefault(row, [small_image(image) for image in batch.prompts[index].pictures])

    def gather(self, ranks: Ranks) -> list[tuple[Record, list[Image]]]:
        """Collect the groups of all ranks; all of them must call this, even if something failed on one.

        Returns:
            On the first rank, the groups with the images of their prompts, in the order of the rows; elsewhere none.
        """
        found, self._found = list(self._found.items()), {}
        records = {row: record for part in ranks.gather_values(found) for row, record in part}
        if ranks.rank:
            return []
        return [(records[row], self._images_of(row)) for row in sorted(records)]

    def _images_of(self, row: int) -> list[Image]:
        if row not in self._images:
            # evaluated by another rank, and images are not sent
            assert self._loader is not None
            prompt = self._loader.dataset[row]
            if prompt.videos and self._loader.prepare is not None:
                self._loader.prepare(prompt)
            self._images[row] = [small_image(image) for image in prompt.pictures]
        return self._images[row]


def first_rows(tasks: Sequence[str], rows: Sequence[int], per_task: int) -> list[int]:
    """Choose the first rows of each task.

    Args:
        tasks: task of each row in the dataset.
        rows: rows to choose from.
        per_task: maximum number of rows per task.
    """
    chosen: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if len(chosen[tasks[row]]) < per_task:
            chosen[tasks[row]].append(row)
    return sorted(row for of_task in chosen.values() for row in of_task)
