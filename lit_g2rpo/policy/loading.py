"""From a checkpoint's name to a policy ready to train."""

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import LoraConfig, Part, PolicyConfig
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.forward.checkpointing import checkpoint_activations
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import build, lookup

FAMILIES = {"qwen3_vl": "lit_g2rpo.policy.families.qwen3_vl.Qwen3VL"}
"""Model families by the ``model_type`` of their configurations."""


def load_policy(config: PolicyConfig) -> Policy:
    """Load model and processor, freeze what does not learn, and add adapters if asked.

    Returns:
        The policy, on the CPU (or sharded, where the strategy says so).

    Raises:
        UserError: if the checkpoint is missing or of no family that is known.
    """
    path = resolve_path(config.path)
    try:
        family = find_family(config)
        processor = family.processor_class.from_pretrained(path)
        model = family.model_class.from_pretrained(
            path, dtype=getattr(torch, config.dtype), attn_implementation=config.attention
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.policy.path '{config.path}' cannot be loaded as a {config.family or 'Qwen3-VL'} checkpoint: "
            f"{reason}; give a folder written by save_pretrained or a hub name such as Qwen/Qwen3-VL-2B-Instruct"
        ) from error
    size = dict(processor.image_processor.size)
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    processor.image_processor.size = size
    return Policy(
        prepare(model, family, config),
        processor,
        family,
        packing=config.packing,
        packed_attention=config.packed_attention,
        features_on_device_mib=config.features_on_device_mib,
        shapes=config.shapes,
    )


def find_family(config: PolicyConfig) -> Family:
    """Find the family of a policy's model, by its name or by the checkpoint's ``model_type``.

    Raises:
        UserError: if it is not known, or no family.
        OSError: if the checkpoint's configuration cannot be read.
    """
    name, where = config.family, "model.policy.family"
    if name is None:
        found = PreTrainedConfig.get_config_dict(resolve_path(config.path))[0]
        name, where = str(found.get("model_type")), f"model.policy.family (null: the model_type of '{config.path}')"
    family = lookup(name, FAMILIES, where)
    if not (isinstance(family, type) and issubclass(family, Family)):
        raise UserError(f"{where} is {name!r}, which is no subclass of {Family.__module__}.{Family.__name__}")
    return build(family, name, where)


def prepare(model: Any, family: Family, config: PolicyConfig) -> Any:
    """Freeze what does not learn, choose what is recomputed, and add adapters if asked.

    Args:
        model: a model of the family, changed in place.

    Returns:
        The model, or the ``peft`` model around it.

    Raises:
        UserError: if a part is frozen and to have adapters, or ``peft`` is missing.
    """
    frozen, lora = config.freeze, config.lora
    if lora and ("language" in frozen or (lora.vision and "vision" in frozen)):
        raise UserError(
            f"model.policy.freeze is {frozen}, but model.policy.lora puts adapters on "
            f"{'the language model and the vision tower' if lora.vision else 'the language model'}; adapters freeze "
            "the weights below them anyway"
        )
    freeze(model, family, frozen)
    checkpoint_activations(model, config.activation_checkpointing)
    if config.packing:
        family.prepare_for_packing(model)
    return with_adapters(model, family, lora) if lora else model


def resolve_path(path: str) -> str:
    """Turn ``package:<module>/<folder>`` into a folder; leave every other name as it is.

    Raises:
        UserError: if the package or its folder does not exist, or a local path is not a checkpoint.
    """
    if path.startswith("package:"):
        package, _, folder = path.removeprefix("package:").partition("/")
        try:
            found = Path(str(importlib.resources.files(package))) / folder
        except ModuleNotFoundError as error:
            raise UserError(f"model.policy.path '{path}': there is no package {package}") from error
    elif path.startswith((".", "/", "~")) or Path(path).is_dir():
        found = Path(path).expanduser()
    else:
        return path
    if not (found / "config.json").is_file():
        raise UserError(
            f"model.policy.path '{path}': {found} holds no config.json; give a Hugging Face checkpoint folder"
        )
    return str(found)


def freeze(model: torch.nn.Module, family: Family, parts: list[Part]) -> None:
    """Stop the named parts from learning."""
    for name, parameter in model.named_parameters():
        if family.part_of(name) in parts:
            parameter.requires_grad_(False)


def learning_parts(policy: Policy) -> dict[Part, list[torch.nn.Parameter]]:
    """Group the parameters that learn by part; parts without one are left out."""
    groups: dict[Part, list[torch.nn.Parameter]] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(policy.backbone.family.part_of(name), []).append(parameter)
    return groups


def with_adapters(model: Any, family: Family, lora: LoraConfig) -> Any:
    """Wrap linear layers with low-rank adapters, and the model as a ``peft`` model.

    Raises:
        UserError: if ``peft`` is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UserError('model.policy.lora needs peft: pip install "lit_g2rpo[lora]"') from error
    targets = family.adapter_targets(lora)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets),
    )
