"""A policy's weights as an engine with a copy of them takes them: whole, under the names of the checkpoint."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lit_g2rpo.policy.policy import Policy

BACKEND = "lit_g2rpo"
"""Name of the weight-transfer backend in `transfer`."""

EXTENSION = "lit_g2rpo.rollout.vllm.transfer.Extension"
"""What a server's worker is extended by, so that it knows the backend."""

Weights = Iterable[tuple[str, Tensor]]

CHUNK_MIB = 1024
"""Most weights in one file, MiB, unless a single one is larger."""


@torch.no_grad()
def named_weights(policy: Policy, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Walk all weights, a tied head under both of its names; call this on gathered weights.

    Nothing is copied but one merged layer at a time, and no rank waits for another.

    Args:
        policy: the policy.
        merged: whether adapters are added to the weights below them, or left out.

    Yields:
        The name that ``save_pretrained`` would write, and the weight, on its device and in its type.
    """
    adapted = {name: module for name, module in policy.base.named_modules() if hasattr(module, "get_delta_weight")}
    # not the state dict, for which a strategy would split the weights again
    for name, weight in policy.base.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        layer, _, kind = name.partition(".base_layer.")
        if kind == "weight" and merged:
            for adapter in adapted[layer].active_adapters:
                weight = _merged(weight, adapted[layer].get_delta_weight(adapter))
        yield name.replace(".base_layer.", "."), weight.detach()


def _merged(weight: Tensor, delta: Tensor) -> Tensor:
    """Add the product of an adapter's two factors, rounding once."""
    return (weight.float() + delta.float()).to(weight.dtype)


class Counted:
    """Weights that count the bytes that have been read.

    Args:
        weights: names and tensors.
    """

    def __init__(self, weights: Weights) -> None:
        self.size = 0
        self._weights = weights

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._weights:
            self.size += weight.nbytes
            yield name, weight


def chunks(weights: Weights, mib: float = CHUNK_MIB) -> Iterator[dict[str, Tensor]]:
    """Cut weights into parts of limited size, no two tensors of which share memory.

    Args:
        weights: names and tensors.
        mib: most bytes of a part, MiB, unless a single weight is larger.
    """
    part: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights:
        # a tied head shares the memory of the embedding, which a file of safetensors must not hold twice
        shares = any(weight.data_ptr() == other.data_ptr() for other in part.values())
        if part and (shares or size + weight.nbytes > mib * 2**20):
            yield part
            part, size = {}, 0
        part[name] = weight
        size += weight.nbytes
    if part:
        yield part


@contextmanager
def exchange(folder: str | None = None) -> Iterator[Path]:
    """Create a folder that only this user can read for files of weights, and remove it afterwards.

    Args:
        folder: where to create it, on a disk that the servers see under the same path; None for memory that the
            processes of this host share, or its temporary folder if there is none.
    """
    shared = Path("/dev/shm")
    where = folder or (str(shared) if shared.is_dir() and _free(shared) > 2 * CHUNK_MIB * 2**20 else None)
    with TemporaryDirectory(prefix="lit_g2rpo_weights_", dir=where) as path:
        yield Path(path)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
