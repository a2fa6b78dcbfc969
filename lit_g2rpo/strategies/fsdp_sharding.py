"""A policy whose weights are split over ranks by FSDP2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy


def shard(policy: "Policy", mesh: DeviceMesh) -> None:
    """Split the weights of each layer, and what lies outside the layers, over ranks.

    Args:
        mesh: the ranks, of one dimension.
    """
    model = policy.base.model
    for layer in (*model.language_model.layers, *model.visual.blocks):
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    # Embedding and head are used outside their modules: these gather them once per pass.
    for method in ("loss", "token_stats"):
        register_fsdp_forward_method(policy, method)


@contextmanager
def gathered(policy: "Policy") -> Iterator[None]:
    """Gather the weights once; inside, no module gathers or releases any. All ranks enter together.

    Args:
        policy: a policy that `shard` has split.
    """
    root: Any = policy
    parts = [module for module in policy.modules() if isinstance(module, FSDPModule)]
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
