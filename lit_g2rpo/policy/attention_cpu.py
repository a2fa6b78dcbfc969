"""Attention over packed groups on the CPU: flash kernels on slices, merged by their log-sum-exp."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(slots=True, frozen=True)
class Span:
    """A group in a packed sequence: the prompt and behind it its completions.

    Args:
        start: position of the first prompt token.
        prompt: prompt tokens.
        completions: tokens of each completion; 0 for one that takes no place.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all completions."""
        return sum(self.completions)

    @property
    def end(self) -> int:
        """Position behind the group."""
        return self.start + self.prompt + self.tokens


class MergedAttention(torch.autograd.Function):
    """Prompt and completions causal over themselves, completions over their prompt; no key repeated, no pad, no mask.

    A softmax over two sets of keys is the mean of the two softmaxes weighted by their sums. Given the merged output and
    log-sum-exp, the kernel's own backward yields each part's share of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scaling: float) -> Tensor:
        """Read.

        Args:
            ctx: keeps what the backward needs.
            query: ``[1, heads, N, D]``.
            key: ``[1, key heads, N, D]``.
            value: ``[1, key heads, N, D]``.
            spans: the groups.
            scaling: factor on the scores.

        Returns:
            What each token has read, ``[1, N, heads, D]``.
        """
        _, heads, tokens, width = query.shape
        read = query.new_empty(1, tokens, heads, width)
        total = torch.empty(1, tokens, heads, dtype=torch.promote_types(query.dtype, torch.float32))
        out, sums = read.transpose(1, 2), total.transpose(1, 2)
        for q, k, causal in _parts(spans):
            part, part_sums = _forward(query[:, :, q], key[:, :, k], value[:, :, k], 0.0, causal, scale=scaling)
            if causal:
                out[:, :, q], sums[:, :, q] = part, part_sums
            else:
                share = (part_sums - sums[:, :, q]).sigmoid()
                out[:, :, q].lerp_(part, share[..., None].to(part.dtype))
                sums[:, :, q] = torch.logaddexp(part_sums, sums[:, :, q])
        ctx.save_for_backward(query, key, value, read, total)
        ctx.spans, ctx.scaling = spans, scaling
        return read

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value.

        Args:
            ctx: what the forward kept.
            grad: gradient of what was read, ``[1, N, heads, D]``.

        Returns:
            The three gradients, and None for spans and scaling.
        """
        query, key, value, read, total = ctx.saved_tensors
        out, sums, grad = read.transpose(1, 2), total.transpose(1, 2), grad.transpose(1, 2)
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for q, k, causal in _parts(ctx.spans):
            parts = _backward(
                grad[:, :, q], query[:, :, q], key[:, :, k], value[:, :, k], out[:, :, q], sums[:, :, q],
                0.0, causal, scale=ctx.scaling,
            )  # fmt: skip
            for whole, part, at in zip(grads, parts, (q, k, k), strict=True):
                if causal:
                    whole[:, :, at] = part
                else:
                    whole[:, :, at] += part
        return *grads, None, None


def _parts(spans: list[Span]) -> Iterator[tuple[slice, slice, bool]]:
    """Query and key ranges that see each other: causal ones cover every token once and come before the others."""
    for span in spans:
        start = span.start
        for length in (span.prompt, *span.completions):
            if length:
                yield slice(start, start + length), slice(start, start + length), True
            start += length
        if span.tokens:
            prompt = slice(span.start, span.start + span.prompt)
            yield slice(prompt.stop, span.end), prompt, False
