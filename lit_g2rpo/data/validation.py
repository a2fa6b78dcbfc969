"""Evaluation batches: every row exactly once over all ranks."""

import logging
from collections.abc import Iterator

from lit_g2rpo.data.images import ImageError
from lit_g2rpo.data.loader import PromptDataset
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

log = logging.getLogger(__name__)


class ShardedBatches:
    """Yields ``(prompts, rows)``, the same number of equally large batches on every rank.

    Rank ``r`` of ``w`` evaluates rows ``r, r + w, ..``. Where a rank runs out of rows, or an image cannot be used,
    another row stands in and its entry in ``rows`` is None, so that it is generated for but not scored.

    Args:
        dataset: the rows.
        batch_size: rows per batch and rank.
        rank: this process.
        world_size: number of processes.

    Attributes:
        failures: rows of this rank whose image could not be used in the last iteration.

    Raises:
        UserError: if there is no row, or, while iterating, if no row of the dataset opens.
    """

    def __init__(self, dataset: PromptDataset, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise UserError(f"val_batch_size is {batch_size}; it must be at least 1")
        if len(dataset) == 0:
            raise UserError("the evaluation data has no rows; give at least one prompt")
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.world_size = rank, world_size
        self.failures = 0
        self._share = -(-len(dataset) // world_size)

    def __len__(self) -> int:
        """Number of batches, the same on every rank."""
        return -(-self._share // self.batch_size)

    def __iter__(self) -> Iterator[tuple[list[Prompt], list[int | None]]]:
        """Goes through the rank's rows in dataset order."""
        self.failures = 0
        for first in range(0, self._share, self.batch_size):
            places = range(first, min(first + self.batch_size, self._share))
            opened = [self._open(self.rank + place * self.world_size) for place in places]
            yield [prompt for prompt, _ in opened], [number for _, number in opened]

    def _open(self, row: int) -> tuple[Prompt, int | None]:
        size = len(self.dataset)
        reason = ""
        for step in range(size):
            try:
                return self.dataset[(row + step) % size], row if row < size and step == 0 else None
            except ImageError as error:
                reason = str(error)
                if step == 0 and row < size:
                    self.failures += 1
                    log.warning("row left out of the evaluation: %s", reason)
        raise UserError(f"no evaluation row has images that open; the last reason: {reason}")
