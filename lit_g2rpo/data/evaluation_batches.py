"""Evaluation batches: every row exactly once over all ranks."""

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from lit_g2rpo.data.lengths import check_prompt
from lit_g2rpo.data.loader import PromptDataset, opened
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

log = logging.getLogger(__name__)


class ShardedBatches:
    """Yield ``(prompts, rows)``, the same number of equally large batches on every rank.

    Rank ``r`` of ``w`` evaluates rows ``r, r + w, ..`` of the rows to evaluate. If a rank runs out of rows, or an image
    cannot be used, another row stands in with None as its entry in ``rows``: it gets a completion but no score.

    Args:
        batch_size: rows per batch and rank.
        image_errors: what to do with a row whose image cannot be used.
        limit: evaluate only this many rows, from the first; None for all.
        done: rows that have already been evaluated.
        prepare: called with each opened prompt; fills its ``encoded``.
        max_prompt_tokens: longest prepared prompt, tokens, including images; None for no limit.

    Attributes:
        rows: row numbers to evaluate, over all ranks.
        failures: rows of this rank whose image could not be used in the last iteration.

    Raises:
        UserError: if there are no rows, or, while iterating, if no row of the dataset opens, a row fails to open that
            must, or a prompt is too long.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        image_errors: Literal["raise", "skip"] = "skip",
        limit: int | None = None,
        done: Collection[int] = (),
        prepare: Callable[[Prompt], None] | None = None,
        max_prompt_tokens: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"val_batch_size is {batch_size}; it must be at least 1")
        if len(dataset) == 0:
            raise UserError("the evaluation data has no rows; give at least one prompt")
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.world_size, self.image_errors = rank, world_size, image_errors
        self.prepare, self.max_prompt_tokens = prepare, max_prompt_tokens
        self.failures = 0
        if limit is not None and limit < 1:
            raise UserError(f"data.limit is {limit}; it must be at least 1, or null for all rows")
        size = len(dataset) if limit is None else min(limit, len(dataset))
        self.rows = [row for row in range(size) if row not in done]
        self._share = -(-len(self.rows) // world_size)

    def __len__(self) -> int:
        # the same on every rank
        return -(-self._share // self.batch_size)

    def __iter__(self) -> Iterator[tuple[list[Prompt], list[int | None]]]:
        self.failures = 0
        for first in range(0, self._share, self.batch_size):
            places = range(first, min(first + self.batch_size, self._share))
            opened = [self._open(self.rank + place * self.world_size) for place in places]
            yield [prompt for prompt, _ in opened], [number for _, number in opened]

    def _open(self, place: int) -> tuple[Prompt, int | None]:
        size, ours = len(self.dataset), place < len(self.rows)
        row = self.rows[place if ours else 0]
        reason = ""
        for step in range(size):
            try:
                prompt = opened(self.dataset, (row + step) % size)
                if self.prepare is not None:
                    self.prepare(prompt)
            except ImageError as error:
                if self.image_errors == "raise":
                    raise
                reason = str(error)
                if step == 0 and ours:
                    self.failures += 1
                    log.warning("row left out of the evaluation: %s", reason)
                continue
            check_prompt(prompt, self.max_prompt_tokens)
            return prompt, row if ours and step == 0 else None
        raise UserError(f"no evaluation row has images that open; the last reason: {reason}")
