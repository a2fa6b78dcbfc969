"""Attention whose parts can be merged: it returns the log of its normaliser."""

import torch
from torch import Tensor


def part_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attend to a part of the keys.

    Args:
        query: ``[B, Q, H, D]``.
        key: ``[B, K, H, D]``.
        value: ``[B, K, H, D]``.
        bias: added to the scores, ``[B, 1, 1, K]`` float, 0 or minus infinity.

    Returns:
        The output ``[B, Q, H, D]`` and the log of the sum of the exponentiated scores, ``[B, Q, H]`` float.
    """
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if query.device.type == "cpu":
        # The operator behind scaled_dot_product_attention, called by name because only that returns the normaliser.
        output, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=bias
        )
    else:
        output, normalizer = plain_attention(query, key, value, bias)
    return output.transpose(1, 2), normalizer.transpose(1, 2)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attend by two products, which every device has.

    Args:
        query: ``[B, H, Q, D]``.
        key: ``[B, H, K, D]``.
        value: ``[B, H, K, D]``.
        bias: added to the scores, ``[B, 1, 1, K]`` float, 0 or minus infinity.

    Returns:
        The output ``[B, H, Q, D]`` and the log of the sum of the exponentiated scores, ``[B, H, Q]`` float.
    """
    query = query * query.shape[-1] ** -0.5
    if query.device.type == "cuda" and query.dtype != torch.float32:
        # Scores in half precision would be off by more than those of the fused attention that training runs.
        scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT, torch.float32).view(*query.shape[:3], -1)
    else:
        scores = torch.matmul(query, key.mT)
    scores = scores if bias is None else scores + bias
    normalizer = scores.logsumexp(-1)
    return (scores - normalizer[..., None]).exp().to(value.dtype) @ value, normalizer


def merge_parts(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Merge the attention to two parts of the keys into the attention to both.

    Args:
        first: output ``[N, ..., D]`` and normaliser ``[N, ...]`` of one part.
        second: those of the other part.

    Returns:
        The output over both parts, ``[N, ..., D]``.
    """
    share = torch.sigmoid(second[1] - first[1])[..., None]
    return torch.lerp(first[0], second[0], share.to(first[0].dtype))
