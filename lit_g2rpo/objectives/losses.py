"""Losses of completion tokens: clipped policy gradient and the KL penalty, elementwise."""

import torch
from torch import Tensor

# exp overflows float32 above 88. A ratio of e^20 is past any clip and means that the two policies no longer agree about
# the token: beyond it the value stays finite and the token gives no gradient, instead of deciding the whole step.
MAX_LOG_RATIO = 20.0


def clipped_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy-gradient loss of each token, with separate lower and upper clips and an optional dual clip.

    Args:
        logprobs: log-probabilities under the current policy, nats, ``[M]``.
        old_logprobs: log-probabilities at sampling time, nats, ``[M]``.
        advantages: advantage of the token's completion, ``[M]``.
        clip_low: the ratio is clipped from below at ``1 - clip_low``.
        clip_high: the ratio is clipped from above at ``1 + clip_high``.
        dual_clip: with a negative advantage the loss is at most ``dual_clip * |advantage|``; None for no bound.

    Returns:
        The loss ``[M]``, and ``clip_fraction`` (1 where a clip decides, so that no gradient flows), ``ratio`` (current
        over sampling probability) and ``approx_kl`` (non-negative estimate of KL(old || current), nats), each ``[M]``
        without gradient.

    Source: arXiv 2604.08539, eq. 1; separate clips arXiv 2503.14476, eq. 10; dual clip arXiv 1912.09729, eq. 5.
    """
    log_ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(unclipped, clipped)
    active = clipped > unclipped
    if dual_clip is not None:
        bound = -advantages * dual_clip
        bounded = (advantages < 0) & (loss > bound)
        loss = torch.where(bounded, bound, loss)
        active = active | bounded
    metrics = {
        "clip_fraction": active.to(ratio.dtype),
        "ratio": ratio.detach(),
        "approx_kl": (torch.expm1(log_ratio) - log_ratio).detach(),
    }
    return loss, metrics


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate of KL(current || reference) per token: ``r - 1 - log r`` with ``r`` = reference over current.

    Args:
        logprobs: log-probabilities under the current policy, nats, ``[M]``.
        ref_logprobs: log-probabilities under the reference, nats, ``[M]``.

    Returns:
        Non-negative penalty, nats, ``[M]``; unbiased on tokens sampled from the current policy.

    Source: arXiv 2402.03300, eq. 4.
    """
    log_ratio = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # expm1 keeps the digits that exp(x) - 1 - x loses near 0, where the penalty is quadratic.
    return torch.expm1(log_ratio) - log_ratio


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    normalizer: float | Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float | None = 3.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped loss of a batch: the sum over the tokens that count, over a normaliser that the caller knows.

    The normaliser is the number of tokens that count in the whole optimizer step, over all micro-batches and ranks, so
    that their losses add up to the token mean of the one big batch.

    Args:
        logprobs: log-probabilities under the current policy, nats, any shape ``[...]``.
        old_logprobs: log-probabilities at sampling time, nats, ``[...]``.
        advantages: advantage of the token's completion, ``[...]`` or broadcastable to it (``[N, 1]`` to ``[N, T]``).
        mask: True for the tokens that count, ``[...]``; others may hold anything, NaN included.
        normalizer: what the sum is divided by, tokens.
        clip_low: see `clipped_loss`.
        clip_high: see `clipped_loss`.
        dual_clip: see `clipped_loss`.

    Returns:
        The scalar loss, and ``clip_fraction``, ``ratio`` and ``approx_kl`` as means over the tokens that count.

    Source: arXiv 2604.08539, eq. 1, with the token mean of arXiv 2503.14476, eq. 8.
    """
    mask = mask.bool()
    # Masked before the exponential, not only after: 0 times an infinite derivative is NaN.
    kept = [torch.where(mask, x, 0.0) for x in (logprobs, old_logprobs, advantages)]
    loss, metrics = clipped_loss(*kept, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    tokens = mask.sum().clamp(min=1)
    means = {name: torch.where(mask, value, 0.0).sum() / tokens for name, value in metrics.items()}
    return torch.where(mask, loss, 0.0).sum() / normalizer, means
