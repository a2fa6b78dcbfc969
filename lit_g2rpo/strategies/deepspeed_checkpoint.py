"""Reading DeepSpeed's checkpoint folders: one file per rank, weights as flat float32 parts."""

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import one_line
from lit_g2rpo.training.checkpoint_files import read, tensors_only

FILES = "checkpoint"
"""Folder inside a checkpoint that DeepSpeed writes to under Lightning's strategy."""


@dataclass(slots=True, frozen=True)
class Shards:
    """Metadata of a checkpoint.

    Args:
        stage: ZeRO stage that wrote it.
        ranks: number of processes that wrote it.
        shapes: shape of each trained weight, by name.
        state: everything in it except weights and optimizer state.
    """

    stage: int
    ranks: int
    shapes: dict[str, tuple[int, ...]]
    state: dict[str, Any]


def is_deepspeed(path: Path) -> bool:
    """Return whether a path is a DeepSpeed checkpoint."""
    return any((path / FILES).glob("*_model_states.pt"))


def read_shards(path: Path) -> Shards:
    """Read the metadata of a checkpoint.

    Raises:
        UserError: if it is not a complete DeepSpeed checkpoint, or holds anything but tensors and plain values.
    """
    if not is_deepspeed(path):
        raise UserError(f"--ckpt_path {path} is not a DeepSpeed checkpoint (a folder with {FILES}/)")
    with only_plain(path):
        # every file, since DeepSpeed will read them all; tensors stay on disk
        states = {file.name: read(file, mmap=True) for file in sorted((path / FILES).glob("*.pt"))}
    state = next(state for name, state in states.items() if name.endswith("_model_states.pt"))
    found = sum(name.endswith("_optim_states.pt") for name in states)
    try:
        ranks, stage = state["dp_world_size"], state["ds_config"]["zero_optimization"]["stage"]
        shapes = {name: tuple(shape) for group in state["param_shapes"] for name, shape in group.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--ckpt_path {path} is not an intact DeepSpeed checkpoint ({one_line(error)})") from None
    if found != ranks:
        raise UserError(f"--ckpt_path {path} is incomplete: {ranks} processes wrote it, but it has files of {found}")
    return Shards(stage, ranks, shapes, state)


def only_plain(path: Path) -> AbstractContextManager[None]:
    """Restrict what DeepSpeed reads to tensors, plain values, and the few classes that it saves itself.

    Raises:
        UserError: if DeepSpeed is not installed, or, inside the block, if a file contains anything else.
    """
    try:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address
    except ModuleNotFoundError as error:
        raise UserError(
            f'--ckpt_path {path} was written by DeepSpeed, which reads it: pip install "lit_g2rpo[deepspeed]"'
        ) from error
    return tensors_only(path, DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Join the parts of all ranks, on any number of processes.

    Returns:
        The trained weights, float32, by name.

    Raises:
        UserError: if DeepSpeed is not installed, or this is not a complete checkpoint.
    """
    read_shards(path)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    # it prints every step
    with (
        only_plain(path),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(path), tag=FILES)
    return weights
