"""Counter-based randomness, and the draw of a token."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from lit_g2rpo.rollout.engine import Sampling


def prompt_key(prompt_id: str) -> int:
    """Turn a prompt's id into a non-negative 63-bit integer, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), "little") >> 1


def uniforms(sampling: Sampling, prompt_id: str, completion: int) -> np.ndarray:
    """Compute the uniform numbers from which a completion is drawn, one per token.

    Args:
        completion: index of the completion in its group.

    Returns:
        ``[max_tokens]`` float64 in [0, 1), the same on any rank, machine and batch shape.
    """
    counters = [sampling.seed, sampling.rollout, prompt_key(prompt_id), completion, sampling.wave]
    sequence = np.random.SeedSequence(counters)
    return np.random.Generator(np.random.Philox(sequence)).random(sampling.max_tokens)


def microbatch_seed(seed: int, rollout: int, microbatch: int, rank: int) -> int:
    """Compute the dropout seed of a rank's pass over a micro-batch, a non-negative 63-bit integer."""
    return int(np.random.SeedSequence([seed, rollout, microbatch, rank]).generate_state(1, np.uint64)[0] >> 1)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, forbidden: Tensor) -> Tensor:
    """Draw one token per row, ``[N]`` long; arguments as in `draw_with_stats`."""
    return draw_with_stats(logits, uniform, sampling, forbidden)[0]


def draw_with_stats(
    logits: Tensor, uniform: Tensor, sampling: Sampling, forbidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by searching the cumulative probabilities for one uniform number.

    Args:
        logits: ``[N, V]`` float, not yet divided by the temperature.
        uniform: ``[N]`` float64 in [0, 1).
        forbidden: ids that are never drawn, ``[F]`` long.

    Returns:
        Token ids, ``[N]`` long, and log-probabilities and entropies, nats, ``[N]`` each, from one softmax over the full
        distribution at the temperature (1 if sampling is greedy), which is the distribution that is trained.
    """
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).sum(-1)
    if sampling.temperature == 0:
        # Argmax of the logits: subtracting the normalizer may round two of them to a tie.
        tokens = logits.index_fill(-1, forbidden, -torch.inf).argmax(-1)
    else:
        tokens = _search(_truncated(probs.index_fill_(-1, forbidden, 0), sampling), uniform)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0], entropy


def _truncated(probs: Tensor, sampling: Sampling) -> Tensor:
    """Set probabilities outside top-k and top-p to 0."""
    if sampling.top_k:
        smallest = probs.topk(min(sampling.top_k, probs.shape[-1]), dim=-1).values[:, -1:]
        probs = probs.masked_fill(probs < smallest, 0)
    if sampling.top_p < 1:
        ordered, order = probs.double().sort(-1, descending=True)
        # A token stays while the mass before it is below top_p, so the most likely one always stays.
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p * ordered.sum(-1, keepdim=True)
        probs = probs.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0)
    return probs


def _search(probs: Tensor, uniform: Tensor) -> Tensor:
    """Find the token whose interval of the cumulative probabilities contains the uniform number."""
    # float64: a float32 running sum over a large vocabulary is off by more than a rare token's probability.
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    point = uniform[:, None] * total
    if probs.device.type == "xla":
        # Counting gives the same result, and a search would leave the device.
        index, last = (cumulative <= point).sum(-1), (cumulative < total).sum(-1)
        return torch.minimum(index, last)
    index = torch.searchsorted(cumulative, point, right=True)
    # Rounding may push the search past the last token with non-zero probability, the first that reaches the total.
    last = torch.searchsorted(cumulative, total)
    # If nothing is finite, no token is found; its log-probability then says so.
    return torch.minimum(index, last)[:, 0].clamp_(max=probs.shape[-1] - 1)
