"""Attention over packed groups on the CPU: flash kernels on slices, merged by their log-sum-exp."""

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

    Queries are ``[1, heads, N, D]``, keys and values ``[1, key heads, N, D]``, what is read ``[1, N, heads, D]``.

    A softmax over two sets of keys is the mean of the two softmaxes weighted by their sums. Given the merged output and
    log-sum-exp, the kernel's own backward yields each part's share of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scaling: float) -> Tensor:
        """Read, with the scores times ``scaling``."""
        own, shared = _sizes(spans)
        parts = [
            _forward(*part, 0.0, True, scale=scaling)
            for part in zip(*(tensor.split_with_sizes(own, 2) for tensor in (query, key, value)), strict=True)
        ]
        out, sums = (torch.cat([part[i].transpose(1, 2) for part in parts], 1).transpose(1, 2) for i in (0, 1))
        for q, k in shared:
            part, part_sums = _forward(query[:, :, q], key[:, :, k], value[:, :, k], 0.0, False, scale=scaling)
            share = (part_sums - sums[:, :, q]).sigmoid()
            out[:, :, q].lerp_(part, share[..., None].to(part.dtype))
            sums[:, :, q] = torch.logaddexp(part_sums, sums[:, :, q])
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.spans, ctx.scaling = spans, scaling
        read: Tensor = out.transpose(1, 2)
        return read

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of query, key and value."""
        query, key, value, out, sums = ctx.saved_tensors
        inputs = grad.transpose(1, 2), query, key, value, out, sums
        own, shared = _sizes(ctx.spans)
        parts = [
            _backward(*part, 0.0, True, scale=ctx.scaling)
            for part in zip(*(tensor.split_with_sizes(own, 2) for tensor in inputs), strict=True)
        ]
        grads = [torch.cat([part[i] for part in parts], 2) for i in range(3)]
        for q, k in shared:
            at = (q, q, k, k, q, q)
            found = _backward(
                *(tensor[:, :, part] for tensor, part in zip(inputs, at, strict=True)), 0.0, False, scale=ctx.scaling
            )
            for whole, part, rows in zip(grads, found, (q, k, k), strict=True):
                whole[:, :, rows] += part
        return *grads, None, None


def _sizes(spans: list[Span]) -> tuple[list[int], list[tuple[slice, slice]]]:
    """List lengths of what is causal over itself, and for each prompt the ranges of its completions and of itself."""
    own, shared = [], []
    for span in spans:
        own += [length for length in (span.prompt, *span.completions) if length]
        if span.tokens:
            prompt = slice(span.start, span.start + span.prompt)
            shared.append((slice(prompt.stop, span.end), prompt))
    return own, shared
