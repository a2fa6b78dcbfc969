"""Rows over ranks: rank r of w holds prompts r, r + w, r + 2w, ... of a rollout."""

from typing import Any

import torch
from torch import Tensor

LONGEST = 1000
"""Bytes of a message that ranks share."""


def gather_prompts(module: Any, rows: Tensor) -> Tensor:
    """Collect one entry per prompt from all ranks, in the order of the prompts.

    Args:
        module: the LightningModule, whose strategy knows the ranks.
        rows: this rank's entries, ``[p, ...]``, the same shape on every rank.

    Returns:
        All entries, ``[P, ...]`` with ``P = p * world_size``, on the CPU, the same on every rank.
    """
    if module.trainer.world_size == 1:
        return rows.cpu()
    gathered: Tensor = module.all_gather(rows.to(module.device))
    return gathered.transpose(0, 1).reshape(-1, *rows.shape[1:]).cpu()


def sum_over_ranks(module: Any, values: Tensor) -> Tensor:
    """Add a tensor up over all ranks.

    Args:
        module: the LightningModule, whose strategy knows the ranks.
        values: any tensor, the same shape on every rank.

    Returns:
        The sum, on the CPU, the same on every rank.
    """
    if module.trainer.world_size == 1:
        return values.cpu()
    reduced: Tensor = module.trainer.strategy.reduce(values.to(module.device), reduce_op="sum")
    return reduced.cpu()


def first_message(module: Any, message: str) -> str:
    """Agree on a message, such as the reason to stop: that of the first rank that has one.

    Args:
        module: the LightningModule, whose strategy knows the ranks.
        message: this rank's message; empty for none.

    Returns:
        The message, the same on every rank, cut at ``LONGEST`` bytes; empty if no rank has one.
    """
    if module.trainer.world_size == 1:
        return message
    own = torch.zeros(LONGEST, dtype=torch.uint8)
    text = message.encode()[:LONGEST]
    own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else own[:0]
    gathered: Tensor = module.all_gather(own.to(module.device))
    texts = (bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in gathered.cpu())
    return next(filter(None, texts), "")
