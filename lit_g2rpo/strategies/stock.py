"""Hooks of Lightning's own strategies, except those that have their own file here."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy

from lit_g2rpo.hardware.hooks import Sharding, reads_folders, sharding


def replicated(ranks: int, arguments: Mapping[str, Any]) -> Sharding:
    """Describe DDP: a whole copy on every rank, and gradients in buckets.

    Args:
        ranks: ranks of the run.
        arguments: arguments of ``DDPStrategy``.
    """
    if ranks == 1:
        return Sharding("single device")
    return Sharding("DDP", ranks, copies_gradients=not arguments.get("gradient_as_bucket_view"))


@sharding.register(SingleDeviceStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding:
    return Sharding("single device")


@sharding.register(DDPStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    # a subclass may split something
    return replicated(ranks, arguments) if strategy is DDPStrategy else None


@sharding.register(FSDPStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    # strings, or torch's own types if a class path was given
    kind, offload = arguments.get("sharding_strategy", "FULL_SHARD"), arguments.get("cpu_offload")
    if getattr(kind, "name", kind) != "FULL_SHARD":
        return None
    host = bool(getattr(offload, "offload_params", offload))
    return Sharding(
        "FSDP", ranks, weights=True, gradients=True, optimizer=True, offload_optimizer=host, offload_weights=host
    )


@reads_folders.register
def _(strategy: FSDPStrategy) -> bool:
    return True
