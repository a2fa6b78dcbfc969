"""Attention over packed groups against one dense mask, in float64, and against single rows."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from lit_g2rpo.policy.forward.attention import Kind, Span, grouped_attention, make_layout

WIDTH, HEADS, KEY_HEADS = 16, 4, 2
# uneven groups; one-token rows that take no place; a group of such rows alone; one row; a one-token prompt
SIZES = [(5, (3, 7, 1)), (9, (0, 4, 0)), (3, (0, 0)), (40, (33,)), (1, (2, 2))]
SCALING = 0.3


def spans() -> list[Span]:
    found, start = [], 0
    for prompt, completions in SIZES:
        found.append(Span(start, prompt, completions))
        start = found[-1].end
    return found


def inputs(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = spans()[-1].end
    shapes = [(1, tokens, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2).requires_grad_()
        for shape in shapes
    ]


def visible() -> Tensor:
    """Token by token, from the words: a prompt sees itself, a completion its prompt and itself, nobody the future."""
    tokens = spans()[-1].end
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    start = 0
    for prompt, completions in SIZES:
        for i in range(prompt):
            mask[start + i, start : start + i + 1] = True
        row = start + prompt
        for length in completions:
            for i in range(length):
                mask[row + i, start : start + prompt] = True
                mask[row + i, row : row + i + 1] = True
            row += length
        start = row
    return mask


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, 1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) * SCALING).masked_fill(~visible(), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def attend(kind: Kind, tensors: list[Tensor]) -> Tensor:
    layout = make_layout(spans(), torch.device("cpu"), kind)
    return grouped_attention(torch.nn.Module(), *tensors, None, scaling=SCALING, layout=layout)[0]


@pytest.mark.parametrize("kind", ["merged", "two_part"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_output_and_gradients_equal_a_dense_mask(kind: Kind, dtype: torch.dtype, tolerance: float) -> None:
    tensors, exact = inputs(dtype), inputs(torch.float64)
    if dtype != torch.float64:
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    read, expected = attend(kind, tensors), dense(*exact)
    torch.testing.assert_close(read.double(), expected, atol=tolerance, rtol=tolerance)
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((read * weights.to(dtype)).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("kind", ["merged", "two_part"])
def test_half_precision_stays_close(kind: Kind) -> None:
    tensors = [tensor.detach() for tensor in inputs(torch.float64)]
    read = attend(kind, [tensor.bfloat16() for tensor in tensors])
    assert read.dtype == torch.bfloat16
    torch.testing.assert_close(read.double(), dense(*tensors), atol=0.05, rtol=0.05)


def test_flex_attention_sees_the_same() -> None:
    tokens = spans()[-1].end
    block_mask = make_layout(spans(), torch.device("cpu"), "flex").block_mask
    torch.testing.assert_close(create_mask(block_mask.mask_mod, None, None, tokens, tokens, "cpu")[0, 0], visible())


def test_extreme_scores_stay_finite() -> None:
    tensors = [tensor.detach().mul(300).requires_grad_() for tensor in inputs(torch.float32)]
    read = attend("merged", tensors)
    grads = torch.autograd.grad(read.sum(), tensors)
    torch.testing.assert_close(read, dense(*tensors), atol=1e-2, rtol=1e-4)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["two_part", "flex"])
def test_on_a_gpu_output_and_gradients_equal_a_dense_mask(kind: Kind) -> None:
    exact = inputs(torch.float32)
    tensors = [tensor.detach().cuda().requires_grad_() for tensor in exact]
    layout = make_layout(spans(), torch.device("cuda"), kind)
    read = grouped_attention(torch.nn.Module(), *tensors, None, scaling=SCALING, layout=layout)[0]
    expected = dense(*exact)
    torch.testing.assert_close(read.cpu(), expected, atol=1e-3, rtol=1e-3)
    ours = torch.autograd.grad(read.square().sum(), tensors)
    theirs = torch.autograd.grad(expected.square().sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=5e-3, rtol=5e-3)
