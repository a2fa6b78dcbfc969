"""Attention to a shared prompt and own tokens against the attention of each completion to all its keys."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lit_g2rpo.rollout.native.attention import shared_attention

KEY_HEADS, REPEATS, DIM = 2, 3, 8
PROMPTS = [7, 4]
"""Tokens of each prompt."""
SLOTS = [(1, 3), (0, 1), (0, 6), (1, 2), (0, 5)]
"""Prompt of each completion and the tokens that it has."""


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)]
)
def test_equals_attention_to_all_keys(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    room, span, group = max(PROMPTS) + 2, 6, 3
    prompt_keys, prompt_values = torch.randn(2, len(PROMPTS), KEY_HEADS, room, DIM, dtype=dtype)
    own_keys, own_values = torch.randn(2, len(SLOTS) + 1, KEY_HEADS, span + 2, DIM, dtype=dtype)
    query = torch.randn(len(SLOTS), KEY_HEADS, REPEATS, DIM, dtype=dtype)
    scores = torch.promote_types(dtype, torch.float32)
    hidden = torch.arange(room) >= torch.tensor(PROMPTS)[:, None]
    later = torch.arange(span) >= torch.tensor([length for _, length in SLOTS])[:, None]
    prompt_bias, bias = (
        torch.zeros(mask.shape, dtype=scores).masked_fill(mask, -torch.inf).repeat_interleave(KEY_HEADS, 0)[:, None]
        for mask in (hidden, later)
    )
    members = [[slot for slot, (prompt, _) in enumerate(SLOTS) if prompt == p] for p in range(len(PROMPTS))]
    filled = torch.tensor([slots + [0] * (group - len(slots)) for slots in members])
    grid = filled[:, None] * KEY_HEADS + torch.arange(KEY_HEADS)[:, None]
    place = [
        (prompt * KEY_HEADS + head) * group + members[prompt].index(slot)
        for slot, (prompt, _) in enumerate(SLOTS)
        for head in range(KEY_HEADS)
    ]
    read = shared_attention(
        0,
        query,
        SimpleNamespace(keys=[prompt_keys.flatten(0, 1)], values=[prompt_values.flatten(0, 1)], bias=prompt_bias),  # type: ignore[arg-type]
        SimpleNamespace(keys=[own_keys.flatten(0, 1)], values=[own_values.flatten(0, 1)]),  # type: ignore[arg-type]
        grid,
        torch.tensor(place),
        bias,
    )
    assert read.dtype == dtype
    for slot, (prompt, length) in enumerate(SLOTS):
        key, value = (
            torch.cat([shared[prompt, :, : PROMPTS[prompt]], own[slot, :, :length]], 1).double()
            for shared, own in ((prompt_keys, own_keys), (prompt_values, own_values))
        )
        whole = scaled_dot_product_attention(query[slot].double(), key, value)
        torch.testing.assert_close(read[slot].double(), whole.flatten(), atol=tolerance, rtol=0)
