"""FSDP2: weights, gradients and optimizer state split over ranks by torch itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from typing_extensions import override

from lit_g2rpo.hardware.hooks import Sharding, generation_context, reads_folders, shard, sharding
from lit_g2rpo.policy.policy import Policy


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's model-parallel strategy with all ranks in one group, and checkpoints that are one file.

    Args:
        **kwargs: as Lightning's, its sizes left out.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **kwargs)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        # To have something to save torch lets a fresh optimizer make a step of zero gradients, which Adam would count
        # as its first.
        plain = getattr(optimizer, "_optimizer", optimizer)
        fresh = not plain.state
        found = super().optimizer_state(plain)
        if fresh:
            plain.state.clear()
        return found


@sharding.register(ModelParallelStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    # with more, tensors are cut as well, which the module never asks for
    all_in_one_group = issubclass(strategy, FSDP2Strategy) or arguments.get("tensor_parallel_size") == 1
    return Sharding("FSDP2", ranks, weights=True, gradients=True, optimizer=True) if all_in_one_group else None


@shard.register
def _(strategy: ModelParallelStrategy, policy: Policy) -> None:
    mesh = strategy.device_mesh["data_parallel"]
    # split, gathered and released one by one
    for block in policy.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    # Embedding and head are used outside their modules: these gather them once per pass.
    for method in ("loss", "token_stats"):
        register_fsdp_forward_method(policy, method)


@generation_context.register
@contextmanager
def _(strategy: ModelParallelStrategy, model: nn.Module) -> Iterator[None]:
    root: Any = model
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # otherwise the first module that is called takes itself for the root
    root._get_fsdp_state()._lazy_init()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        # Modules that were called inside are on record, on each rank others, and a backward prefetches by the record.
        root.reset_iter_state()
        for part in parts:
            part.set_reshard_after_forward(part is not root, recurse=False)


@reads_folders.register
def _(strategy: ModelParallelStrategy) -> bool:
    return True
