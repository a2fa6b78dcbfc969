"""Rounding of sizes to a few values, so that a device that compiles for each shape rarely compiles."""

import torch
from torch import Tensor

SMALLEST = 16
"""Smallest size worth a separate graph."""


def bucket(size: int, smallest: int = SMALLEST) -> int:
    """Round a size up to 4, 5, 6 or 7 times a power of two, which adds at most a quarter and a tenth on average."""
    size = max(size, smallest)
    step = 1 << max(size.bit_length() - 3, 0)
    return -(-size // step) * step


def padded(values: Tensor, size: int, value: float = 0) -> Tensor:
    """Pad a tensor ``[..., n]`` to ``[..., size]``."""
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]), value=value)
