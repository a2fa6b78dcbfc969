"""Communication between the ranks of a run; rank r of w holds prompts r, r + w, r + 2w, ... of a rollout."""

import json
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

LONGEST = 1000
"""Maximum length of a message shared by ranks, bytes."""


class Progress:
    """Progress of this rank: a number that grows with everything that ranks do together."""

    def __init__(self) -> None:
        self.count = 0

    def advance(self) -> None:
        """Record that this rank starts to wait for others, or continues."""
        self.count += 1


PROGRESS = Progress()


class Ranks:
    """The ranks of a run, connected by its strategy; all of them must make the same calls.

    Args:
        trainer: the trainer of the run.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._strategy = trainer.strategy
        self.rank, self.count = trainer.global_rank, trainer.world_size

    def gather_prompts(self, rows: Tensor, total: int) -> Tensor:
        """Collect one entry per prompt from all ranks, in the order of the prompts.

        Args:
            rows: this rank's entries, ``[p, ...]``; if the prompts do not divide evenly over the ranks, the last ranks
                have one entry less than the first.
            total: number of prompts over all ranks, ``P``.

        Returns:
            All entries, ``[P, ...]``, on the CPU, the same on every rank.
        """
        if self.count == 1:
            return rows.cpu()
        missing = -(-total // self.count) - len(rows)
        padded = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
        return self._gathered(padded).transpose(0, 1).reshape(-1, *rows.shape[1:])[:total]

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks.

        Args:
            values: any tensor, the same shape on every rank.

        Returns:
            The sum, on the CPU, the same on every rank.
        """
        return self._reduced(values, "sum")

    def largest(self, values: Tensor) -> Tensor:
        """Find the largest value of any rank, elementwise; arguments are those of `sum`."""
        return self._reduced(values, "max")

    def first_message(self, message: str) -> str:
        """Agree on a message, such as the reason to stop: use that of the first rank that has one.

        Args:
            message: this rank's message; empty for none.

        Returns:
            The message, the same on every rank, cut at ``LONGEST`` bytes; empty if no rank has one.
        """
        if self.count == 1:
            return message
        own = torch.zeros(LONGEST, dtype=torch.uint8)
        text = message.encode()[:LONGEST]
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else own[:0]
        texts = (bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in self._gathered(own))
        return next(filter(None, texts), "")

    def gather_values(self, values: list[Any]) -> list[list[Any]]:
        """Collect plain values from all ranks.

        Args:
            values: JSON values, any number on each rank.

        Returns:
            The values of each rank, the same on every rank.
        """
        if self.count == 1:
            return [values]
        # as tensors, not objects, since every strategy can gather tensors
        text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        sizes = self._gathered(torch.tensor([len(text)])).flatten().tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(text)] = text
        parts = self._gathered(padded).view(len(sizes), -1)
        return [json.loads(bytes(part[:size].tolist())) for part, size in zip(parts, sizes, strict=True)]

    def _gathered(self, own: Tensor) -> Tensor:
        PROGRESS.advance()
        gathered = self._strategy.all_gather(own.to(self._strategy.root_device)).cpu()
        PROGRESS.advance()
        return gathered

    def _reduced(self, values: Tensor, operation: str) -> Tensor:
        if self.count == 1:
            return values.cpu()
        PROGRESS.advance()
        reduced = self._strategy.reduce(values.to(self._strategy.root_device), reduce_op=operation)
        assert isinstance(reduced, Tensor)
        summed = reduced.cpu()
        PROGRESS.advance()
        return summed
