"""Log-probability, exact entropy and loss of tokens from hidden states and the head."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.head.tiles import Head, factor_dtype

TokenLoss = Callable[[Tensor, Tensor, TokenFields], tuple[Tensor, dict[str, Tensor]]]


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    fields: TokenFields,
    token_loss: TokenLoss,
    *,
    temperature: float = 1.0,
    elementwise: bool = True,
    device: str | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of tokens directly from hidden states, along with the gradient if the loss is elementwise.

    Args:
        hidden: hidden states that predict the targets, ``[M, H]``.
        weight: the head, ``[V, H]``.
        targets: token ids, ``[M]`` long.
        fields: the loss's inputs besides the policy's, ``[M]`` each.
        token_loss: loss of each token from log-probabilities, entropies and fields.
        temperature: softmax temperature.
        elementwise: True if the loss of a token depends on no other token; ``token_loss`` then gets some at a time.
        device: kind of device that selects tiles and arithmetic; None for that of the tensors.

    Returns:
        The loss (sum over tokens), to be differentiated once, and diagnostics ``[M]`` without gradient, including
        ``nll``, ``entropy`` and ``loss``.

    Source: arXiv 2410.10989, section 3.2 (gradients computed in the forward, part by part).
    """
    if not elementwise:
        logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=temperature, device=device)
        loss, metrics = loss_of_tokens(token_loss, logprobs, entropy, fields)
        return loss.sum(), metrics
    with_grad = torch.is_grad_enabled()
    hidden_grad, weight_grad = with_grad and hidden.requires_grad, with_grad and weight.requires_grad
    dtype = factor_dtype(hidden, weight, device)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        head = Head(
            hidden,
            weight,
            targets,
            temperature,
            dtype,
            hidden_grad=hidden_grad,
            weight_grad=weight_grad,
            device=device,
        )
        found = [_loss_of_part(head, part, fields, token_loss, hidden_grad or weight_grad) for part in head.parts]
        metrics = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        total = metrics["loss"].sum()
    return attach(total, hidden, weight, [head.hidden_grad, head.weight_grad]), metrics


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, device: str | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the log-probability of each target and the entropy of its distribution, in float32 or wider.

    Args are those of `head_loss`.

    Returns:
        Log-probabilities and entropies, nats, ``[M]`` each; their gradients recompute the logits.
    """
    dtype = factor_dtype(hidden, weight, device)
    logprobs, entropy = _Recomputed.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, dtype, device
    )
    return logprobs, entropy


def logits_stats(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the log-probability of each target and the entropy of its distribution from logits.

    Args:
        logits: ``[M, V]``, already divided by the temperature.
        targets: token ids, ``[M]`` long.

    Returns:
        Log-probabilities and entropies, nats, ``[M]`` each.
    """
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


def _loss_of_part(
    head: Head, part: slice, fields: TokenFields, token_loss: TokenLoss, with_grad: bool
) -> dict[str, Tensor]:
    """Compute loss and diagnostics of a tile, and add its gradients to those of the head."""
    values = {field.name: getattr(fields, field.name) for field in dataclasses.fields(fields)}
    of_part = dataclasses.replace(fields, **{name: v[part] for name, v in values.items() if v is not None})
    logprobs, entropy = (value.requires_grad_(with_grad) for value in head.stats(part))
    with torch.set_grad_enabled(with_grad):
        loss, metrics = loss_of_tokens(token_loss, logprobs, entropy, of_part)
    if with_grad:
        found = torch.autograd.grad(loss, (logprobs, entropy), torch.ones_like(loss), allow_unused=True)
        head.backward(part, *found)
    return metrics


def loss_of_tokens(
    token_loss: TokenLoss, logprobs: Tensor, entropy: Tensor, fields: TokenFields
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of each token, ``[M]``, and its diagnostics without gradient, with those of every objective."""
    loss, metrics = token_loss(logprobs, entropy, fields)
    metrics = metrics | {"nll": -logprobs, "entropy": entropy, "loss": loss}
    return loss, {name: value.detach() for name, value in metrics.items()}


def attach(loss: Tensor, hidden: Tensor, weight: Tensor, grads: list[Tensor | None]) -> Tensor:
    """Attach known gradients to a loss.

    Args:
        loss: a scalar, to be differentiated once.
        grads: d loss / d hidden and d loss / d weight, scaled in place by the backward; None if there is none.
    """
    attached: Tensor = _Attached.apply(loss, hidden, weight, grads)  # type: ignore[no-untyped-call]
    return attached


class _Attached(torch.autograd.Function):
    """A loss with known gradients: the backward only scales them, in place because they may be large."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, hidden: Tensor, weight: Tensor, grads: list[Tensor | None]) -> Tensor:
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.grads:
            raise RuntimeError("the loss of a head is differentiated twice; its gradient is gone after the first time")
        weight_grad, hidden_grad = ctx.grads.pop(), ctx.grads.pop()
        return (
            None,
            hidden_grad if hidden_grad is None else hidden_grad.mul_(scale),
            weight_grad if weight_grad is None else weight_grad.mul_(scale),
            None,
        )


class _Recomputed(torch.autograd.Function):
    """Log-probabilities and entropies whose backward recomputes the tiles."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        dtype: torch.dtype,
        device: str | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.dtype, ctx.device = temperature, dtype, device
        ctx.set_materialize_grads(False)
        with torch.autocast(hidden.device.type, enabled=False):
            head = Head(hidden, weight, targets, temperature, dtype, device=device)
            logprobs, entropy = zip(*(head.stats(part) for part in head.parts), strict=True)
        return torch.cat(logprobs), torch.cat(entropy)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        hidden_grad, weight_grad, *_ = ctx.needs_input_grad
        with torch.autocast(hidden.device.type, enabled=False):
            head = Head(
                hidden,
                weight,
                targets,
                ctx.temperature,
                ctx.dtype,
                hidden_grad=hidden_grad,
                weight_grad=weight_grad,
                device=ctx.device,
            )
            for part in head.parts:
                head.stats(part)
                head.backward(part, *(None if grad is None else grad[part] for grad in grads))
        return head.hidden_grad, head.weight_grad, None, None, None, None
