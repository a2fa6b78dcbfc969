"""FSDP2: torch splits weights, gradients and optimizer state over ranks."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding, generation_context, reads_folders, shard, sharding
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import one_line
from lit_g2rpo.training.checkpoint_files import tensors_only

INDEX = ".metadata"
"""File in a sharded checkpoint that records where each tensor is stored."""

IN_INDEX = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}  # fmt: skip
"""Classes in the index, as torch writes it."""


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's model-parallel strategy with all ranks in one group and single-file checkpoints.

    Args:
        **kwargs: arguments of Lightning's strategy, except its sizes.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **kwargs)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        # To have something to save, torch runs a step of zero gradients on a fresh optimizer, which Adam would count
        # as its first.
        plain = getattr(optimizer, "_optimizer", optimizer)
        fresh = not plain.state
        found = super().optimizer_state(plain)
        if fresh:
            plain.state.clear()
        return found

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            check_index(path / INDEX)
        try:
            with tensors_only(path):
                return super().load_checkpoint(path, weights_only)
        except CheckpointException as error:
            # raised on all ranks; it is not an Exception, and contains the error of each rank
            reason = " ".join(str(next(iter(error.failures.values()))[0]).split())[:200]
            raise UserError(f"--ckpt_path {path} cannot be read ({reason})") from None


class _IndexReader(pickle.Unpickler):
    """Read the index of a sharded checkpoint, which torch pickles, without running any code in it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in IN_INDEX or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def check_index(path: Path) -> None:
    """Refuse the index of a sharded checkpoint that would run code.

    Raises:
        UserError: if it would run code, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            _IndexReader(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} has more than tensor locations ({error}); it is not read, since reading it could run any code"
        ) from None
    except (OSError, EOFError, ValueError, AttributeError, TypeError, IndexError, KeyError) as error:
        raise UserError(f"{path} cannot be read as the index of a checkpoint ({one_line(error)})") from None


@sharding.register(ModelParallelStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    # with more groups, tensors would be split too, which the module never asks for
    all_in_one_group = issubclass(strategy, FSDP2Strategy) or arguments.get("tensor_parallel_size") == 1
    return Sharding("FSDP2", ranks, weights=True, gradients=True, optimizer=True) if all_in_one_group else None


@shard.register
def _(strategy: ModelParallelStrategy, policy: Policy) -> None:
    mesh = strategy.device_mesh["data_parallel"]
    # each block is split, gathered and released separately
    for block in policy.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    # Embedding and head are used outside their modules, so these methods gather them once per pass.
    for method in ("loss", "token_stats"):
        register_fsdp_forward_method(policy, method)


@generation_context.register
@contextmanager
def _(strategy: ModelParallelStrategy, model: nn.Module) -> Iterator[None]:
    root: Any = model
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # otherwise the first module called would become the root
    root._get_fsdp_state()._lazy_init()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        # FSDP recorded the modules called inside, which differ between ranks, and would prefetch them in backward.
        root.reset_iter_state()
        for part in parts:
            part.set_reshard_after_forward(part is not root, recurse=False)


@reads_folders.register
def _(strategy: ModelParallelStrategy) -> bool:
    return True
