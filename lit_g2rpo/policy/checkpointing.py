"""Activation checkpointing: what the backward pass computes again instead of keeping it."""

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

aten = torch.ops.aten
KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
]
"""Operations whose results ``selective`` keeps: the dear ones; norms, rotations and activations are cheap."""


def checkpoint_activations(model: Any, mode: Literal["off", "selective", "full"]) -> None:
    """Recompute activations of each layer in the backward pass.

    Args:
        model: a Qwen3-VL model.
        mode: recompute nothing with ``off``, all but products of matrices and attention with ``selective``, all with
            ``full``.
    """
    if mode == "off":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    model.gradient_checkpointing_enable(options)
