"""Policy-gradient losses of completion tokens: one signature for all of them."""

from typing import Literal

import torch
from torch import Tensor

LossType = Literal["ppo", "cispo", "sapo", "gspo", "gspo_token"]
SEQUENCE_LOSSES = ("gspo", "gspo_token")

# exp overflows float32 above 88. A ratio of e^20 is past any clip and means that the two policies no longer agree about
# the token: beyond it the value stays finite and the token gives no gradient, instead of deciding the whole step.
MAX_LOG_RATIO = 20.0


def token_losses(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    loss: LossType = "ppo",
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float | None = 3.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
    completion_ids: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy-gradient loss of each token.

    ``ppo`` clips the token's probability ratio, ``cispo`` clips the ratio as a weight of the log-probability so that no
    token loses its gradient, ``sapo`` replaces the clip by a sigmoid gate. ``gspo`` and ``gspo_token`` clip the
    geometric mean of a completion's ratios; the first sends the gradient through that mean, the second through each
    token's own log-probability. All but the GSPO forms are elementwise.

    Args:
        logprobs: log-probabilities under the current policy, nats, ``[M]``.
        old_logprobs: log-probabilities at sampling time, nats, ``[M]``.
        advantages: advantage of the token's completion, ``[M]``.
        loss: which loss.
        clip_low: the ratio is clipped from below at ``1 - clip_low``.
        clip_high: the ratio is clipped from above at ``1 + clip_high``.
        dual_clip: with a negative advantage the loss is at most ``dual_clip * |advantage|``; None for no bound.
        tau_positive: SAPO's temperature for positive advantages.
        tau_negative: SAPO's temperature for other advantages.
        completion_ids: which completion a token belongs to, below ``M``, ``[M]`` long; for the GSPO forms.

    Returns:
        The loss ``[M]``, and ``ratio`` (current over sampling probability), ``approx_kl`` (non-negative estimate of
        KL(old || current), nats) and, where there is a clip, ``clip_fraction`` (1 where a clip decides), each ``[M]``
        without gradient.

    Raises:
        ValueError: if the loss is unknown, or a GSPO form is given no completion ids.

    Source: ppo arXiv 2604.08539, eq. 1, separate clips arXiv 2503.14476, eq. 10, dual clip arXiv 1912.09729, eq. 5;
        cispo arXiv 2506.13585, eq. 4; sapo arXiv 2511.20347, eq. 5-6; gspo arXiv 2507.18071, eq. 5-7 and 13-14.
    """
    log_ratio = logprobs - old_logprobs
    if loss in SEQUENCE_LOSSES:
        if completion_ids is None:
            raise ValueError(f"{loss} needs completion ids")
        mean = completion_mean(log_ratio, completion_ids)
        log_ratio = mean if loss == "gspo" else mean.detach() + logprobs - logprobs.detach()
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    metrics = {"ratio": ratio.detach(), "approx_kl": (torch.expm1(log_ratio) - log_ratio).detach()}
    if loss == "sapo":
        return _gated(ratio, advantages, tau_positive, tau_negative), metrics
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    if loss == "cispo":
        metrics["clip_fraction"] = (clipped_ratio != ratio).to(ratio.dtype)
        return -clipped_ratio.detach() * advantages * logprobs, metrics
    if loss not in ("ppo", *SEQUENCE_LOSSES):
        raise ValueError(f"unknown loss {loss!r}: ppo, cispo, sapo, gspo or gspo_token")
    unclipped, clipped = -advantages * ratio, -advantages * clipped_ratio
    losses, active = torch.maximum(unclipped, clipped), clipped > unclipped
    if dual_clip is not None:
        bound = -advantages * dual_clip
        bounded = (advantages < 0) & (losses > bound)
        losses, active = torch.where(bounded, bound, losses), active | bounded
    metrics["clip_fraction"] = active.to(ratio.dtype)
    return losses, metrics


def completion_mean(values: Tensor, completion_ids: Tensor) -> Tensor:
    """Mean over the tokens of each token's completion.

    Args:
        values: one value per token, ``[M]``.
        completion_ids: which completion a token belongs to, below ``M``, ``[M]`` long.

    Returns:
        The means, one per token, ``[M]``.
    """
    total = torch.zeros_like(values).index_add(0, completion_ids, values)
    count = torch.zeros_like(values).index_add(0, completion_ids, torch.ones_like(values))
    return (total / count.clamp(min=1))[completion_ids]


def _gated(ratio: Tensor, advantages: Tensor, tau_positive: float, tau_negative: float) -> Tensor:
    """SAPO: a sigmoid of the ratio, of slope 1 where the policies agree, instead of a clip."""
    tau = torch.where(advantages > 0, tau_positive, tau_negative)
    return -advantages * 4 / tau * torch.sigmoid(tau * (ratio - 1))


def truncated_importance(old_logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> Tensor:
    """Weight that corrects for an engine whose probabilities differ from the trainer's, cut at a cap.

    Args:
        old_logprobs: log-probabilities under the trainer's policy at sampling time, nats, ``[M]``.
        engine_logprobs: log-probabilities the engine sampled with, nats, ``[M]``.
        cap: largest weight.

    Returns:
        ``min(old / engine probability, cap)``, ``[M]``.

    Source: https://fengyao.notion.site/off-policy-rl (truncated importance sampling).
    """
    return (old_logprobs - engine_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    normalizer: float | Tensor,
    loss: LossType = "ppo",
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float | None = 3.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch: the sum over the tokens that count, over a normaliser that the caller knows.

    The normaliser is the number of tokens that count in the whole optimizer step, over all micro-batches and ranks, so
    that their losses add up to the token mean of the one big batch.

    Args:
        logprobs: log-probabilities under the current policy, nats, ``[M]``, or ``[N, T]`` with a completion a row.
        old_logprobs: log-probabilities at sampling time, nats, of the same shape.
        advantages: advantage of the token's completion, of the same shape or broadcastable to it (``[N, 1]``).
        mask: True for the tokens that count, of the same shape; others may hold anything, NaN included.
        normalizer: what the sum is divided by, tokens.
        loss: see `token_losses`; the GSPO forms need ``[N, T]``.
        clip_low: see `token_losses`.
        clip_high: see `token_losses`.
        dual_clip: see `token_losses`.
        tau_positive: see `token_losses`.
        tau_negative: see `token_losses`.

    Returns:
        The scalar loss, and the diagnostics of `token_losses` as means over the tokens that count.

    Raises:
        ValueError: if the loss is unknown, or a GSPO form is given flat tokens.

    Source: arXiv 2604.08539, eq. 1, with the token mean of arXiv 2503.14476, eq. 8.
    """
    mask = mask.bool()
    completion_ids = None
    if logprobs.ndim == 2:
        completion_ids = torch.arange(len(logprobs), device=logprobs.device)[:, None].expand_as(logprobs)[mask]
    # Selected before the exponential, not only after: 0 times an infinite derivative is NaN.
    losses, metrics = token_losses(
        logprobs[mask],
        old_logprobs[mask],
        advantages.expand_as(logprobs)[mask],
        loss=loss,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        tau_positive=tau_positive,
        tau_negative=tau_negative,
        completion_ids=completion_ids,
    )
    tokens = mask.sum().clamp(min=1)
    return losses.sum() / normalizer, {name: value.sum() / tokens for name, value in metrics.items()}
