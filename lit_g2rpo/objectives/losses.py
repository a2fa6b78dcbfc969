"""Policy-gradient losses of completion tokens, one function each, by short name or import path."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.registry import arguments, lookup

# exp overflows float32 above 88. A ratio of e^20 is past any clip and means that the two policies no longer agree on
# the token: beyond it the value stays finite and the token gives no gradient, instead of dominating the whole step.
MAX_LOG_RATIO = 20.0

TokenLosses = tuple[Tensor, dict[str, Tensor]]
"""The loss of each token ``[M]``, and diagnostics by name, each ``[M]`` without gradient."""


class LossFunction(Protocol):
    """A loss: three tensors, then its coefficients by name.

    A coefficient with the name of an objective's key gets that value; any other comes from ``loss_options``. A loss
    over whole completions takes ``completion_ids``, the completion of each token, below ``M``, ``[M]`` long; any other
    is elementwise and may get some of the tokens at a time.
    """

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, /, *args: Any, **coefficients: Any
    ) -> TokenLosses:
        """Compute the policy-gradient loss of each token.

        Args:
            logprobs: log-probabilities under the current policy, nats, ``[M]``.
            old_logprobs: log-probabilities at sampling time, nats, ``[M]``.
            advantages: advantage of the token's completion, ``[M]``.

        Returns:
            The losses, and diagnostics. The losses here return ``ratio`` (current over sampling probability),
            ``approx_kl`` (non-negative estimate of KL(old || current), nats) and, if they clip, ``clip_fraction``
            (1 where the clip is active).
        """


def ppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> TokenLosses:
    """Clip the token's probability ratio; with a negative advantage the loss is at most ``dual_clip * |advantage|``.

    Source: arXiv 2604.08539, eq. 1, separate clips arXiv 2503.14476, eq. 10, dual clip arXiv 1912.09729, eq. 5.
    """
    return _clipped(logprobs - old_logprobs, advantages, clip_low, clip_high, dual_clip)


def cispo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> TokenLosses:
    """Use the clipped ratio as a weight of the log-probability, so that no token loses its gradient.

    Source: arXiv 2506.13585, eq. 4.
    """
    ratio, metrics = _ratio(logprobs - old_logprobs)
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    metrics["clip_fraction"] = (clipped_ratio != ratio).to(ratio.dtype)
    return -clipped_ratio.detach() * advantages * logprobs, metrics


def sapo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, tau_positive: float, tau_negative: float
) -> TokenLosses:
    """Replace the clip with a sigmoid of the ratio, with slope 1 where the policies agree.

    Source: arXiv 2511.20347, eq. 5-6.
    """
    ratio, metrics = _ratio(logprobs - old_logprobs)
    # `where` of two numbers would round them to single precision
    tau = torch.full_like(advantages, tau_negative).masked_fill(advantages > 0, tau_positive)
    return -advantages * 4 / tau * torch.sigmoid(tau * (ratio - 1)), metrics


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    completion_ids: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> TokenLosses:
    """Clip the geometric mean of a completion's ratios.

    Source: arXiv 2507.18071, eq. 5-7.
    """
    mean = completion_mean(logprobs - old_logprobs, completion_ids)
    return _clipped(mean, advantages, clip_low, clip_high, dual_clip)


def gspo_token(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    completion_ids: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> TokenLosses:
    """Clip the geometric mean of a completion's ratios, with the gradient through each token's own log-probability.

    Source: arXiv 2507.18071, eq. 13-14.
    """
    mean = completion_mean(logprobs - old_logprobs, completion_ids)
    return _clipped(mean.detach() + logprobs - logprobs.detach(), advantages, clip_low, clip_high, dual_clip)


LOSSES: dict[str, LossFunction] = {
    "ppo": ppo,
    "cispo": cispo,
    "sapo": sapo,
    "gspo": gspo,
    "gspo_token": gspo_token,
}


@dataclass(slots=True, frozen=True)
class Loss:
    """A loss with its coefficients.

    Args:
        coefficients: the function's coefficients, by name.
        elementwise: True if the loss of a token depends on no other token.
    """

    function: LossFunction
    coefficients: dict[str, Any]
    elementwise: bool

    def __call__(self, logprobs: Tensor, fields: TokenFields) -> TokenLosses:
        """Compute the loss of each token of a micro-batch, or of a part of it if the loss is elementwise."""
        ids = {} if self.elementwise else {"completion_ids": fields.completion_ids}
        loss, metrics = self.function(logprobs, fields.old_logprobs, fields.advantages, **self.coefficients, **ids)
        if loss.shape != logprobs.shape:
            raise UserError(
                f"model.objective.loss returned {list(loss.shape)} for {len(logprobs)} tokens; it must return the loss "
                "of each token"
            )
        return loss, metrics


def build_loss(name: str, keys: Mapping[str, Any], options: Mapping[str, Any]) -> Loss:
    """Find a loss and bind its coefficients.

    Args:
        name: one of `LOSSES`, or the import path of a `LossFunction`.
        keys: the objective's own keys.
        options: the loss's other coefficients.

    Raises:
        UserError: if there is no such loss, or an option is missing or unknown.
    """
    where = "model.objective.loss"
    function = lookup(name, LOSSES, where)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    given = [p for p in parameters[:3] if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
    if isinstance(function, type) or len(given) < 3:
        raise UserError(f"{where} is {name!r}, which is no function of logprobs, old_logprobs and advantages")
    named = parameters[3:]
    own = [parameter for parameter in named if parameter.name != "completion_ids"]
    return Loss(function, arguments(own, keys, options, f"{where}_options"), elementwise=own == named)


def completion_mean(values: Tensor, completion_ids: Tensor) -> Tensor:
    """Average over the tokens of each token's completion.

    Args:
        values: one value per token, ``[M]``.
        completion_ids: completion of each token, below ``M``, ``[M]`` long.

    Returns:
        The means, one per token, ``[M]``.
    """
    total = torch.zeros_like(values).index_add(0, completion_ids, values)
    count = torch.zeros_like(values).index_add(0, completion_ids, torch.ones_like(values))
    return (total / count.clamp(min=1))[completion_ids]


def truncated_importance(old_logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> Tensor:
    """Weight tokens by the trainer's over the engine's probability, ``[M]``, up to a cap.

    Source: https://fengyao.notion.site/off-policy-rl (truncated importance sampling).
    """
    return (old_logprobs - engine_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def _ratio(log_ratio: Tensor) -> TokenLosses:
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    return ratio, {"ratio": ratio.detach(), "approx_kl": (torch.expm1(log_ratio) - log_ratio).detach()}


def _clipped(
    log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> TokenLosses:
    ratio, metrics = _ratio(log_ratio)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    losses, active = torch.maximum(unclipped, clipped), clipped > unclipped
    if dual_clip is not None:
        bound = -advantages * dual_clip
        bounded = (advantages < 0) & (losses > bound)
        losses, active = torch.where(bounded, bound, losses), active | bounded
    metrics["clip_fraction"] = active.to(ratio.dtype)
    return losses, metrics
