"""Attention over packed groups: a prompt sees itself, a completion sees its prompt and itself."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lit_g2rpo.hardware.transfer import send

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(slots=True, frozen=True)
class Span:
    """A group in a packed sequence: the prompt, followed by its completions.

    Args:
        start: position of the first prompt token.
        prompt: number of prompt tokens.
        completions: number of tokens of each completion; 0 for one without a place in the sequence.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Return the number of tokens in all completions."""
        return sum(self.completions)

    @property
    def end(self) -> int:
        """Return the position after the group."""
        return self.start + self.prompt + self.tokens


class MergedAttention(torch.autograd.Function):
    """Causal attention within prompts and completions, plus completions to prompts; no repeated keys, pads or mask.

    Queries are ``[1, heads, N, D]``, keys and values ``[1, key heads, N, D]``, the output ``[1, N, heads, D]``.

    A softmax over two sets of keys is the mean of the two softmaxes weighted by their sums. Given the merged output and
    log-sum-exp, the kernel's own backward returns each part's share of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scaling: float) -> Tensor:
        """Attend, with scores multiplied by ``scaling``."""
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
    """List the lengths of causal parts, and for each prompt the ranges of its completions and of itself."""
    own, shared = [], []
    for span in spans:
        own += [length for length in (span.prompt, *span.completions) if length]
        if span.tokens:
            prompt = slice(span.start, span.start + span.prompt)
            shared.append((slice(prompt.stop, span.end), prompt))
    return own, shared


NAME = "grouped"
"""Name of this attention in transformers."""


Kind = Literal["merged", "two_part", "flex"]
"""CPU flash kernels merged by log-sum-exp; padded groups on any device; flex attention, trainable only on CUDA."""


@dataclass(slots=True, frozen=True)
class Layout:
    """The positions of groups in a packed sequence of ``N`` tokens.

    Args:
        spans: prompt and completions of each group, one group after another.
        padding: for ``two_part``: positions of each group's completions padded to the longest, ``[G, T]`` long each.
        packed: for ``two_part``: indices of each group's completion tokens in the padded ones, ``[sum T_i]`` long each.
        block_mask: for ``flex``: the attention mask; None otherwise.
        mask: for fixed shapes: the attention mask, ``[N, N]`` bool; None otherwise.
    """

    spans: list[Span]
    padding: list[Tensor]
    packed: list[Tensor]
    block_mask: Any = None
    mask: Tensor | None = None


def make_layout(spans: list[Span], device: torch.device, kind: Kind) -> Layout:
    """Compute the layout that an attention needs for a packed sequence on the host, and send it to the device."""
    if kind == "merged":
        return Layout(spans, [], [])
    if kind == "flex":
        return Layout(spans, [], [], _block_mask(spans, device))
    padding, packed = zip(*(_padding(span) for span in spans), strict=True)
    return Layout(spans, [send(index, device) for index in padding], [send(index, device) for index in packed])


def _padding(span: Span) -> tuple[Tensor, Tensor]:
    rows = list(torch.arange(span.end - span.tokens, span.end).split_with_sizes(span.completions))
    # Pads come after their row, where causality hides them; any position will do for them.
    padding = pad_sequence(rows, batch_first=True, padding_value=span.start)
    real = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return padding, real.flatten().nonzero()[:, 0]


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with the signature that transformers calls: by groups if there is a layout, else through its own ``sdpa``.

    Args:
        query: ``[1, heads, N, D]``.
        key: ``[1, key heads, N, D]``.
        value: ``[1, key heads, N, D]``.
        attention_mask: used only without a layout.
        scaling: factor of the scores.
        **options: used only without a layout.

    Returns:
        The output of each token, ``[1, N, heads, D]``, and None for the weights.
    """
    if layout is None:
        read, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    elif layout.mask is not None:
        key, value = (repeat_kv(tensor, query.shape[1] // key.shape[1]) for tensor in (key, value))
        read = scaled_dot_product_attention(query, key, value, attn_mask=layout.mask, scale=scaling).transpose(1, 2)
    elif layout.block_mask is not None:
        read, _ = flex_attention_forward(module, query, key, value, layout.block_mask, scaling=scaling)
    elif layout.padding:
        read = two_part_attention(query, key, value, layout, scaling)
    else:
        # autocast leaves rotated queries and keys in float32, and casts for sdpa but not for these kernels
        query, key = query.to(value.dtype), key.to(value.dtype)
        read = MergedAttention.apply(query, key, value, layout.spans, scaling)  # type: ignore[no-untyped-call]
    return read, None


def two_part_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float) -> Tensor:
    """Attend group by group: the prompt causal over itself, its completions over ``[prompt | own]``, padded.

    Shapes are those of `grouped_attention`; the layout has index tensors.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    parts = []
    for span, padding, packed in zip(layout.spans, layout.padding, layout.packed, strict=True):
        q, k, v = (tensor[:, :, span.start : span.start + span.prompt] for tensor in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=True)[0].transpose(0, 1))
        rows, longest = padding.shape
        if not longest:
            continue
        own_q, own_k, own_v = (tensor[0, :, padding].transpose(0, 1) for tensor in (query, key, value))
        k, v = (torch.cat([p.expand(rows, -1, -1, -1), o], 2) for p, o in ((k, own_k), (v, own_v)))
        mask = torch.ones(longest, span.prompt + longest, dtype=torch.bool, device=query.device).tril(span.prompt)
        read = scaled_dot_product_attention(own_q, k, v, attn_mask=mask, scale=scaling)
        parts.append(read.transpose(1, 2).flatten(0, 1)[packed])
    return torch.cat(parts)[None]


def _block_mask(spans: list[Span], device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    sizes = [(group, row, size) for group, span in enumerate(spans)
             for row, size in enumerate((span.prompt, *span.completions))]  # fmt: skip
    lengths = torch.tensor([size for _, _, size in sizes])
    groups = send(torch.tensor([group for group, _, _ in sizes]).repeat_interleave(lengths), device)
    rows = send(torch.tensor([row for _, row, _ in sizes]).repeat_interleave(lengths), device)

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (groups[q] == groups[k]) & ((rows[k] == 0) | (rows[k] == rows[q]))

    return create_block_mask(visible, None, None, len(groups), len(groups), device=str(device))


AttentionInterface.register(NAME, grouped_attention)
# Padded forwards and generation need the mask of sdpa; a packed forward has its own, so none is built.
AttentionMaskInterface.register(NAME, sdpa_mask)
