"""Attention in parts against the attention to all keys at once."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lit_g2rpo.rollout.attention import merge_parts, part_attention, plain_attention


def parts(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two sequences, 5 queries, 3 heads, 11 and 7 keys of which some are masked."""
    torch.manual_seed(seed)
    query, key, value = torch.randn(2, 5, 3, 8), torch.randn(2, 18, 3, 8), torch.randn(2, 18, 3, 8)
    bias = torch.zeros(2, 1, 1, 18)
    bias[0, ..., 9:11] = bias[1, ..., 3:] = bias[0, ..., 14:] = -torch.inf
    bias[1, ..., 11:13] = 0
    return query, key, value, bias


@pytest.mark.parametrize("fused", [True, False])
def test_merged_parts_equal_the_whole(fused: bool) -> None:
    query, key, value, bias = parts(0)

    def attend(keys: slice) -> tuple[Tensor, Tensor]:
        inputs = query, key[:, keys], value[:, keys], bias[..., keys]
        if fused:
            return part_attention(*inputs)
        output, normalizer = plain_attention(*(x.transpose(1, 2) for x in inputs[:3]), inputs[3])
        return output.transpose(1, 2), normalizer.transpose(1, 2)

    whole = scaled_dot_product_attention(
        *(x.transpose(1, 2).double() for x in (query, key, value)), attn_mask=bias.double()
    ).transpose(1, 2)
    merged = merge_parts(attend(slice(11)), attend(slice(11, 18)))
    torch.testing.assert_close(merged.double(), whole, atol=1e-6, rtol=0)


def test_both_forms_agree_without_a_mask() -> None:
    query, key, value, _ = parts(1)
    fused = part_attention(query, key, value)
    plain = plain_attention(*(x.transpose(1, 2) for x in (query, key, value)), None)
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-6, rtol=0)
