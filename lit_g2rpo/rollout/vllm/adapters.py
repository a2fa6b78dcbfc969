"""A policy's adapters as vLLM takes them: a small folder in peft's format, and a request that names it."""

from pathlib import Path
from typing import Any

import torch

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.policy import Policy

ADAPTER = "default"
"""Name that peft gives an adapter; a policy has one."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be built for."""


def adapter_arguments(policy: Policy) -> dict[str, Any]:
    """Return the arguments with which vLLM takes a policy's adapters on top of its weights.

    Raises:
        UserError: if the policy has no adapters, or of a rank that vLLM does not know.
    """
    settings = getattr(policy.model, "peft_config", {}).get(ADAPTER)
    if settings is None:
        raise UserError(
            "model.rollout.engine_options.push is adapters, but the policy has none: set model.policy.lora, or leave "
            "push at weights"
        )
    part_of = policy.backbone.family.part_of
    rank = next((size for size in RANKS if size >= settings.r), None)
    if rank is None:
        raise UserError(
            f"model.policy.lora.rank is {settings.r}, but vLLM takes adapters up to rank {RANKS[-1]}: set "
            "model.rollout.engine_options.push to weights"
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": rank,
        "enable_tower_connector_lora": any(part_of(name) != "language" for name, _ in _adapters(policy)),
    }


@torch.no_grad()
def write_adapters(policy: Policy, folder: Path) -> int:
    """Write the adapters, on gathered weights, as ``peft`` itself would.

    Args:
        folder: where to; created if it does not exist.

    Returns:
        Bytes written.
    """
    from safetensors.torch import save_file

    tensors = {name.replace(f".{ADAPTER}.", "."): w.detach().cpu().contiguous() for name, w in _adapters(policy)}
    folder.mkdir(parents=True, exist_ok=True)
    policy.model.peft_config[ADAPTER].save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors")
    return sum(tensor.nbytes for tensor in tensors.values())


def _adapters(policy: Policy) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight) for name, weight in policy.model.named_parameters() if ".lora_" in name]
