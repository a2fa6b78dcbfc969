"""Estimates of the KL divergence to the reference, per token."""

from typing import Literal

import torch
from torch import Tensor

from lit_g2rpo.objectives.losses import MAX_LOG_RATIO

KlEstimator = Literal["k1", "k2", "k3"]


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: KlEstimator = "k3") -> Tensor:
    """Estimate KL(current || reference) per token, nats, on tokens sampled from the current policy.

    With ``x`` = log current - log reference: ``k1`` is ``x``, unbiased, but as a loss its expected gradient is zero;
    ``k2`` is ``x^2 / 2``, biased, but its gradient is that of the KL; ``k3`` is ``exp(-x) - 1 + x``, unbiased and never
    negative.

    Args:
        logprobs: log-probabilities under the current policy, nats, ``[M]``.
        ref_logprobs: log-probabilities under the reference, nats, ``[M]``.

    Source: http://joschu.net/blog/kl-approx.html; ``k3`` in arXiv 2402.03300, eq. 4.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        # expm1 keeps the digits that exp(x) - 1 - x loses near 0, where the penalty is quadratic.
        # The clamp keeps exp finite. It drops the gradient of that term, but only where x is far below 0.
        return torch.expm1(-difference.clamp(min=-MAX_LOG_RATIO)) + difference
    raise ValueError(f"unknown estimator {estimator!r}: k1, k2 or k3")
