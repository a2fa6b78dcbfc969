"""Hooks that strategies can implement beyond Lightning's interface, with their defaults.

A strategy registers its hooks in its own file, and subclasses inherit them::

    @keeps_masters.register
    def _(strategy: MyStrategy) -> bool:
        return True
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import nn

from lit_g2rpo.errors import UserError


@singledispatch
def shard(strategy: object, policy: nn.Module) -> None:
    """Split a newly loaded policy over ranks; by default it stays whole.

    Raises:
        UserError: if the strategy leaves splitting to the module, and no hook is registered for it.
    """
    if hasattr(type(strategy), "device_mesh"):
        # otherwise each rank would silently train a whole copy by itself
        raise UserError(
            f"trainer.strategy {type(strategy).__name__} has a device mesh, but no hook says how it splits a policy: "
            "import lit_g2rpo.strategies, or register lit_g2rpo.hardware.hooks.shard for it"
        )


@singledispatch
def generation_context(strategy: object, model: nn.Module) -> AbstractContextManager[None]:
    """Gather a model's weights on all ranks for sampling; by default every rank already has them."""
    return nullcontext()


@singledispatch
def keeps_masters(strategy: object) -> bool:
    """Return whether the strategy keeps float32 copies of half-precision weights; by default it does not."""
    return False


@singledispatch
def forget_gradients(strategy: object, module: nn.Module) -> None:
    """Drop the gradients of a backward without an optimizer step; by default those of the parameters."""
    for parameter in module.parameters():
        parameter.grad = None


@singledispatch
def reads_folders(strategy: object) -> bool:
    """Return whether a checkpoint may be a folder; by default it is a file."""
    return False


@dataclass(slots=True, frozen=True)
class Sharding:
    """Which parts of the state are split over the ranks.

    Args:
        name: name of the strategy.
        ranks: number of ranks.
        weights: True if the weights are split; they are then gathered for a rollout.
        gradients: True if the gradients are split.
        optimizer: True if the optimizer's state is split.
        deepspeed: True if float32 copies of the weights are kept.
        copies_gradients: True if buckets hold a second copy of the gradients.
        offload_optimizer: True if the optimizer's state is in host memory.
        offload_weights: True if the weights are in host memory.
    """

    name: str
    ranks: int = 1
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    deepspeed: bool = False
    copies_gradients: bool = False
    offload_optimizer: bool = False
    offload_weights: bool = False

    def share(self, split: bool) -> int:
        """Return the number of ranks to divide a size by, which is 1 if it is not split."""
        return self.ranks if split else 1


@singledispatch
def sharding(strategy: object, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    """Describe what is split over ranks for `plan`, which builds no strategy and refuses the default, unknown.

    Register it with the class as an argument (``@sharding.register(MyStrategy)``), since no instance is passed.

    Args:
        strategy: the class, which may be a subclass of the registered one.
        ranks: number of ranks.
        arguments: the strategy's arguments as configured.

    Returns:
        What is split; None if class and arguments do not determine it.
    """
    return None


_GRAPH_ENDS: dict[str, Callable[[], None]] = {}


def register_graph_end(device_type: str, end: Callable[[], None]) -> None:
    """Register how to end a graph on a device that records operations; its strategy calls this when it is built.

    Args:
        device_type: type of device, such as ``xla``.
        end: compiles the recorded operations, or finds them in the cache, and starts them.
    """
    _GRAPH_ENDS[device_type] = end


def end_graph(device: torch.device) -> None:
    """End the graph being recorded, so that later operations compile separately; elsewhere, do nothing."""
    end = _GRAPH_ENDS.get(device.type)
    if end is not None:
        end()
