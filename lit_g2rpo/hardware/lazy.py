"""Devices that record operations and run them later: where the host says that a graph ends."""

from collections.abc import Callable

import torch

_ENDS: dict[str, Callable[[], None]] = {}


def register_graph_end(device_type: str, end: Callable[[], None]) -> None:
    """Say how a kind of device is told that a graph ends; its strategy does, when it is chosen.

    Args:
        device_type: the kind, such as ``xla``.
        end: compiles what was recorded, or takes it from the cache, and starts it.
    """
    _ENDS[device_type] = end


def end_graph(device: torch.device) -> None:
    """End the graph that is being recorded: what lies on both sides of this call compiles apart.

    Args:
        device: the device; one that runs operations at once needs nothing.
    """
    end = _ENDS.get(device.type)
    if end is not None:
        end()
