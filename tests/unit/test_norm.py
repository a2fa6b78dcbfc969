"""The norm that takes the model's place against the model's, and against numerical gradients."""

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from lit_g2rpo.policy.forward.layers import Norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-6), (torch.bfloat16, 0.0)])
def test_equals_the_norm_of_the_model(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    theirs = Qwen3VLTextRMSNorm(16).to(dtype)
    torch.nn.init.normal_(theirs.weight)
    x = torch.randn(3, 5, 16, dtype=dtype)
    expected = theirs(x)
    theirs.__class__ = Norm
    torch.testing.assert_close(theirs(x), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_those_of_finite_differences(frozen: bool) -> None:
    torch.manual_seed(1)
    norm = Qwen3VLTextRMSNorm(6).double()
    torch.nn.init.normal_(norm.weight.requires_grad_(not frozen))
    norm.__class__ = Norm
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x,) if frozen else (x, norm.weight)
    assert torch.autograd.gradcheck(lambda *_: norm(x), inputs)
