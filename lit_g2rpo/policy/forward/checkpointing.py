"""Activation checkpointing: recompute activations in the backward pass instead of keeping them."""

from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
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
"""Operations whose results ``selective`` keeps: the expensive ones; norms, rotations and activations are cheap."""


def checkpoint_activations(model: Any, mode: Literal["off", "selective", "full"]) -> None:
    """Recompute activations of each layer in the backward pass.

    Args:
        model: a Hugging Face model.
        mode: recompute nothing with ``off``, everything except matrix products and attention with ``selective``,
            everything with ``full``.
    """
    if mode == "off":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = _contexts
    model.gradient_checkpointing_enable(options)


class _Reuse(TorchDispatchMode):
    """Return kept results and let other operations pass, since hooks that gather split weights need not repeat theirs.

    Args:
        cached: torch's mode, which expects the same operations the second time.
    """

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __init__(self, cached: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cached = cached

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in KEPT:
            return self.cached.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def _contexts() -> tuple[Any, Any]:
    keep, cached = create_selective_checkpoint_contexts(KEPT)  # type: ignore[no-untyped-call]
    return keep, _Reuse(cached)
