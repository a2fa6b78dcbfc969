"""Copies from the host to a device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device; unless they share it, the host does not wait for the device.

    CUDA reads pinned memory by itself, behind the work that is already queued. Everything else is copied at once.

    Args:
        tensor: any tensor on the host; one on the device is returned as it is.
        device: where it is needed.

    Returns:
        The tensor on the device.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
