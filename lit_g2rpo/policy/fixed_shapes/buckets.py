"""Sizes rounded up to few, so that a device that compiles for each shape compiles rarely."""

import torch
from torch import Tensor

SMALLEST = 16
"""Below it a size costs nothing that would be worth a graph of its own."""


def bucket(size: int, smallest: int = SMALLEST) -> int:
    """Round a size up to 4, 5, 6 or 7 times a power of two: at most a quarter is added, a tenth in the mean."""
    size = max(size, smallest)
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step


def padded(values: Tensor, size: int, value: float = 0) -> Tensor:
    """Lengthen a tensor ``[..., n]`` to ``[..., size]``."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]), value=value)
