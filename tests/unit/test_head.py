"""Tiles of the head: their sizes, and that full logits never exist."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.head.tiles import MIN_ROWS, Head, factor_dtype
from lit_g2rpo.policy.head.token_stats import head_loss, token_logprobs


def sizes(rows: int, vocabulary: int) -> list[int]:
    head = Head(
        torch.zeros(rows, 2), torch.zeros(vocabulary, 2), torch.zeros(rows, dtype=torch.long), 1.0, torch.float32
    )
    return [part.stop - part.start for part in head.parts]


def test_tiles_shrink_with_the_vocabulary_down_to_a_floor():
    assert sizes(2000, 151_936 // 16) == [MIN_ROWS] * 8
    assert sizes(2000, 1024) == [1024, 1024]
    assert sizes(100, 1024) == [100]
    assert sizes(0, 1024) == [1]


class Largest(TorchDispatchMode):
    """Remember the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("one_pass", [True, False])
def test_full_logits_never_exist(one_pass):
    rows, vocabulary, width = 3 * MIN_ROWS, 20_000, 4
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    ones = torch.ones(rows)
    with Largest() as largest:
        if one_pass:
            fields = TokenFields(ones, -10 * ones, None, ones, ones, targets)
            loss, _ = head_loss(hidden, weight, targets, fields, G2RPO(entropy_coefficient=0.1).token_loss)
        else:
            loss = sum(token_logprobs(hidden, weight, targets)).sum()
        loss.backward()
    assert largest.numel == MIN_ROWS * vocabulary


def test_products_take_the_inputs_type_or_wider_off_cuda():
    half, single, wide = (torch.zeros(1, 1, dtype=t) for t in (torch.bfloat16, torch.float32, torch.float64))
    assert factor_dtype(half, half) == factor_dtype(half, single) == torch.float32
    assert factor_dtype(wide, single) == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert factor_dtype(single, single) == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_gives_what_float64_gives(dtype):
    torch.manual_seed(0)
    hidden = torch.randn(700, 64, device="cuda", dtype=dtype, requires_grad=True)
    weight = (torch.randn(9001, 64, device="cuda", dtype=dtype) / 8).requires_grad_()
    targets = torch.randint(9001, (700,), device="cuda")
    pair = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    distribution = torch.distributions.Categorical(logits=pair[0] @ pair[1].T)
    results = token_logprobs(hidden, weight, targets), (distribution.log_prob(targets), distribution.entropy())
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=0)
    grads = [
        torch.autograd.grad((a + 0.3 * b).sum(), x) for (a, b), x in zip(results, ([hidden, weight], pair), strict=True)
    ]
    for ours, theirs in zip(*grads, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < (1e-5 if dtype == torch.float32 else 1e-2)
