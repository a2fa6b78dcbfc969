"""Log-probability and exact entropy of tokens from hidden states and the head."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Tokens whose full-vocabulary logits exist at a time: 0.6 GiB at 151,936 entries in float32."""


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, in float32 or wider.

    Args:
        hidden: hidden states that predict the targets, ``[M, H]``.
        weight: the head, ``[V, H]``.
        targets: token ids, ``[M]`` long.
        temperature: softmax temperature.

    Returns:
        Log-probabilities and entropies, nats, ``[M]`` each.
    """
    if len(targets) <= CHUNK:
        return _chunk(hidden, weight, targets, temperature)
    parts = [
        checkpoint(_chunk, hidden[i : i + CHUNK], weight, targets[i : i + CHUNK], temperature, use_reentrant=False)
        for i in range(0, len(targets), CHUNK)
    ]
    logprobs, entropy = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    # Half precision logits would round log-probabilities by more than a policy update changes them.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits_stats(logits / temperature, targets)


def logits_stats(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution from logits.

    Args:
        logits: ``[M, V]``, already divided by the temperature.
        targets: token ids, ``[M]`` long.

    Returns:
        Log-probabilities and entropies, nats, ``[M]`` each.
    """
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy
