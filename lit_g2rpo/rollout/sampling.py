"""Randomness that follows from counters, and the draw of a token."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from lit_g2rpo.rollout.engine import Sampling


def prompt_key(prompt_id: str) -> int:
    """A number that stands for a prompt's id on every machine.

    Args:
        prompt_id: id of the prompt.

    Returns:
        A non-negative 63-bit integer.
    """
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), "little") >> 1


def uniforms(sampling: Sampling, prompt_id: str, completion: int) -> np.ndarray:
    """The uniform numbers that a completion is drawn with, one per token.

    Args:
        sampling: seed, rollout, wave and length limit.
        prompt_id: id of the prompt.
        completion: index of the completion in its group.

    Returns:
        ``[max_tokens]`` float64 in [0, 1), the same on any rank, machine and batch shape.
    """
    counters = [sampling.seed, sampling.rollout, prompt_key(prompt_id), completion, sampling.wave]
    sequence = np.random.SeedSequence(counters)
    return np.random.Generator(np.random.Philox(sequence)).random(sampling.max_tokens)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, forbidden: Tensor) -> Tensor:
    """Draw one token per row by searching the cumulative probabilities for one uniform number.

    Args:
        logits: ``[N, V]`` float, not yet divided by the temperature.
        uniform: ``[N]`` float64 in [0, 1).
        sampling: temperature, top_p and top_k.
        forbidden: ids that are never drawn, ``[F]`` long.

    Returns:
        Token ids, ``[N]`` long.
    """
    logits = logits.index_fill(-1, forbidden, -torch.inf)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # float64: a float32 running sum over a large vocabulary is off by more than a rare token's probability.
    probs = (logits / sampling.temperature).double().softmax(-1)
    if sampling.top_k:
        smallest = probs.topk(min(sampling.top_k, probs.shape[-1]), dim=-1).values[:, -1:]
        probs = probs.masked_fill(probs < smallest, 0)
    if sampling.top_p < 1:
        ordered, order = probs.sort(-1, descending=True)
        # A token stays while the mass before it is below top_p, so the most likely one always stays.
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p * ordered.sum(-1, keepdim=True)
        probs = probs.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0)
    cumulative = probs.cumsum(-1)
    index = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    # Rounding may push the search past the last token that has probability.
    last = (probs > 0).long().mul(torch.arange(1, probs.shape[-1] + 1, device=probs.device)).argmax(-1)
    return torch.minimum(index, last)
