"""What a strategy may say beyond Lightning's interface: every hook, with its default.

A strategy registers its answers in its own file, and a subclass inherits them::

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
    """Split a policy that was just loaded over ranks; by default it stays whole.

    Raises:
        UserError: if the strategy leaves splitting to the module, and nobody has registered how.
    """
    if hasattr(type(strategy), "device_mesh"):
        # whole weights would be trained on each rank alone, without a word
        raise UserError(
            f"trainer.strategy {type(strategy).__name__} has a device mesh, but nobody says how it splits a policy: "
            "import lit_g2rpo.strategies, or register lit_g2rpo.hardware.hooks.shard for it"
        )


@singledispatch
def generation_context(strategy: object, model: nn.Module) -> AbstractContextManager[None]:
    """Hold whole weights of a model to sample with, all ranks together; by default they are always there."""
    return nullcontext()


@singledispatch
def keeps_masters(strategy: object) -> bool:
    """Say whether float32 weights are kept beside half-precision ones; by default not."""
    return False


@singledispatch
def forget_gradients(strategy: object, module: nn.Module) -> None:
    """Drop the gradients of a backward that no optimizer step follows; by default those of the parameters."""
    for parameter in module.parameters():
        parameter.grad = None


@singledispatch
def reads_folders(strategy: object) -> bool:
    """Say whether a checkpoint may be a folder; by default it is a file."""
    return False


@dataclass(slots=True, frozen=True)
class Sharding:
    """How many ranks share each part of the state.

    Args:
        name: what the strategy is called.
        ranks: ranks of the run.
        weights: True if they share the weights, which are then gathered for a rollout.
        gradients: True if they share the gradients.
        optimizer: True if they share the optimizer's state.
        deepspeed: True if float32 weights are kept beside those that compute.
        copies_gradients: True if gradients lie in buckets a second time.
        offload_optimizer: True if the optimizer's state lies in host memory.
        offload_weights: True if the weights lie in host memory.
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
        """Count the ranks that share what is split or not: the number to divide by."""
        return self.ranks if split else 1


@singledispatch
def sharding(strategy: object, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    """Say what is split over ranks, for `plan`, which builds no strategy; by default unknown, which `plan` refuses.

    Register it with the class as argument (``@sharding.register(MyStrategy)``), since no instance is passed.

    Args:
        strategy: the class, which may be a subclass of the registered one.
        ranks: ranks of the run.
        arguments: the strategy's arguments as configured.

    Returns:
        What is split; None if that does not follow from class and arguments.
    """
    return None


_GRAPH_ENDS: dict[str, Callable[[], None]] = {}


def register_graph_end(device_type: str, end: Callable[[], None]) -> None:
    """Say how a device that records operations is told that a graph ends; its strategy does, when it is built.

    Args:
        device_type: kind of device, such as ``xla``.
        end: compiles what was recorded, or takes it from the cache, and starts it.
    """
    _GRAPH_ENDS[device_type] = end


def end_graph(device: torch.device) -> None:
    """End the graph being recorded: both sides of this call compile apart; by default operations run at once."""
    end = _GRAPH_ENDS.get(device.type)
    if end is not None:
        end()
