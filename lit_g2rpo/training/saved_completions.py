"""Completions of all ranks as plain tensors, for a checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.rollout.sampling import prompt_key

State = dict[str, Any]


def completions_state(
    prompts: list[Prompt], completions: list[Completion], total: int, max_tokens: int, ranks: Ranks
) -> State:
    """Write completions as tensors; all ranks must call this.

    Args:
        prompts: this rank's prompts.
        completions: their completions, prompt by prompt.
        total: number of prompts over all ranks, ``P``.
        max_tokens: longest completion.
        ranks: the ranks that hold the other parts.

    Returns:
        Tensors ``[P, G, ...]`` by name.
    """
    shape = (len(prompts), len(completions) // len(prompts))
    own = {
        name: padded([getattr(c, name) for c in completions], shape, max_tokens)
        for name in ("token_ids", "logprobs", "entropy")
    }
    own |= {
        "lengths": torch.tensor([len(c.token_ids) for c in completions]).view(shape),
        "truncated": torch.tensor([c.truncated for c in completions]).view(shape),
        "version": torch.tensor([c.version for c in completions]).view(shape),
        "prompt_keys": torch.tensor([prompt_key(p.id) for p in prompts]),
    }
    return {name: ranks.gather_prompts(tensor, total) for name, tensor in own.items()}


def padded(rows: list[Tensor], shape: tuple[int, int], max_tokens: int) -> Tensor:
    """Pad rows ``[T_i]`` with zeros to ``[*shape, max_tokens]``."""
    out = torch.zeros(len(rows), max_tokens, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out.view(*shape, max_tokens)


def cut(rows: Tensor, lengths: Tensor) -> list[Tensor]:
    """Undo `padded`, given the lengths ``[p, G]``."""
    return [row[:length].clone() for row, length in zip(rows.flatten(0, 1), lengths.flatten(), strict=True)]


def read_completions(own: Mapping[str, Tensor], lengths: Tensor, decode: Callable[[Tensor], str]) -> list[Completion]:
    """Read back completions, bit for bit.

    Args:
        own: this rank's part of `completions_state`, ``[p, G, ...]`` by name.
        lengths: their tokens, ``[p, G]``.
        decode: turns tokens into text.
    """
    parts = [cut(own[name], lengths) for name in ("token_ids", "logprobs", "entropy")]
    rows = zip(*parts, own["truncated"].flatten().tolist(), own["version"].flatten().tolist(), strict=True)
    return [
        Completion(ids, lp, entropy, decode(ids), truncated, version) for ids, lp, entropy, truncated, version in rows
    ]
