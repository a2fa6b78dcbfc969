"""From a checkpoint's name to a policy ready to train."""

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import LoraConfig, Part, PolicyConfig
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.folder_check import check_folder
from lit_g2rpo.policy.forward.checkpointing import checkpoint_activations
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import build, lookup, one_line

FAMILIES = {"qwen3_vl": "lit_g2rpo.policy.families.qwen3_vl.Qwen3VL"}
"""Model families by the ``model_type`` in their config."""


def load_policy(config: PolicyConfig) -> Policy:
    """Load model and processor, freeze parts as configured, and add adapters if requested.

    Returns:
        The policy, on the CPU (or sharded, if the strategy does so).

    Raises:
        UserError: if the checkpoint is missing or of an unknown family.
    """
    path = resolve_path(config.path)
    part = "model"
    try:
        family = find_family(config)
        part = "tokenizer or image processor"
        processor = family.processor_class.from_pretrained(path)
        part = "model"
        model = load_model(family, config)
    except ImportError as error:
        raise UserError(
            f"model.policy.attention is {config.attention}, which cannot be used here ({one_line(error)}); give sdpa"
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model.policy.path '{config.path}': the {part} cannot be loaded as a {config.family or 'Qwen3-VL'} "
            f"checkpoint's: {reason}; give a folder written by save_pretrained or a hub name such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        ) from error
    size = dict(processor.image_processor.size)
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    processor.image_processor.size = size
    check_folder(config.path, processor, model, family)
    return Policy(
        prepare(model, family, config),
        processor,
        family,
        packing=config.packing,
        packed_attention=config.packed_attention,
        features_on_device_mib=config.features_on_device_mib,
        shapes=config.shapes,
    )


def load_model(family: Family, config: PolicyConfig) -> Any:
    """Load a model, with every weight from the checkpoint.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: if weights are missing, left over or of another shape, or the checkpoint is of another family.
    """
    path = resolve_path(config.path)
    model_type, expected = model_type_of(path), family.model_class.config_class.model_type
    if model_type != expected:
        raise UserError(
            f"model.policy.path '{config.path}' holds a model of type {model_type!r}, but model.policy.family "
            f"{config.family} loads {expected!r}; leave the family out, or give a checkpoint of it"
        )
    # transformers fills such weights with random numbers and only prints a table
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, report = family.model_class.from_pretrained(
            path,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(loud)
    for what, found in {
        "are missing": report["missing_keys"],
        "have another shape than its config.json says": [key for key, *_ in report["mismatched_keys"]],
        "have no place in the model": report["unexpected_keys"],
    }.items():
        if found:
            raise UserError(
                f"model.policy.path '{config.path}': {len(found)} weights {what}, the first is {min(found)}; a policy "
                "is trained from exactly what its folder holds, so copy or export the folder again"
            )
    return model


def model_type_of(path: str) -> str:
    """Read the ``model_type`` of a checkpoint.

    Raises:
        OSError: if the checkpoint's configuration cannot be read.
    """
    return str(PreTrainedConfig.get_config_dict(path)[0].get("model_type"))


def find_family(config: PolicyConfig) -> Family:
    """Find the family of a policy's model, by name or by the checkpoint's ``model_type``.

    Raises:
        UserError: if it is unknown, or not a family.
        OSError: if the checkpoint's configuration cannot be read.
    """
    name, where = config.family, "model.policy.family"
    if name is None:
        name = model_type_of(resolve_path(config.path))
        if name not in FAMILIES:
            raise UserError(
                f"model.policy.path '{config.path}' holds a model of type {name!r}, which no family here loads; give a "
                f"checkpoint of {', '.join(FAMILIES)}, or model.policy.family as package.module.Name"
            )
    family = lookup(name, FAMILIES, where)
    if not (isinstance(family, type) and issubclass(family, Family)):
        raise UserError(f"{where} is {name!r}, which is no subclass of {Family.__module__}.{Family.__name__}")
    return build(family, name, where)


def prepare(model: Any, family: Family, config: PolicyConfig) -> Any:
    """Freeze parts, set up activation checkpointing, and add adapters, as configured.

    Args:
        model: a model of the family, modified in place.

    Returns:
        The model, or the ``peft`` model around it.

    Raises:
        UserError: if a frozen part should get adapters, or ``peft`` is missing.
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
    """Resolve ``package:<module>/<folder>`` to a folder; return every other name unchanged.

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
    elif "/" in path and not Path(path).is_file():
        return path
    else:
        raise UserError(
            f"model.policy.path '{path}' is not a folder; give a Hugging Face checkpoint folder or a hub name such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )
    if not (found / "config.json").is_file():
        raise UserError(
            f"model.policy.path '{path}': {found} holds no config.json; give a Hugging Face checkpoint folder"
        )
    return str(found)


def freeze(model: torch.nn.Module, family: Family, parts: list[Part]) -> None:
    """Freeze the named parts."""
    for name, parameter in model.named_parameters():
        if family.part_of(name) in parts:
            parameter.requires_grad_(False)


def learning_parts(policy: Policy) -> dict[Part, list[torch.nn.Parameter]]:
    """Group the trained parameters by part, without parts that have none."""
    groups: dict[Part, list[torch.nn.Parameter]] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(policy.backbone.family.part_of(name), []).append(parameter)
    return groups


def with_adapters(model: Any, family: Family, lora: LoraConfig) -> Any:
    """Wrap linear layers with low-rank adapters, and the model with a ``peft`` model.

    Raises:
        UserError: if ``peft`` is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UserError('model.policy.lora needs peft: pip install "lit_g2rpo[lora]"') from error
    layers = {
        name.rpartition(".")[2] for name, m in family.text(model).named_modules() if isinstance(m, torch.nn.Linear)
    }
    if wrong := [target for target in lora.targets if target not in layers]:
        raise UserError(f"model.policy.lora.targets has {wrong[0]}; the linear layers are {', '.join(sorted(layers))}")
    targets = family.adapter_targets(lora)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets),
    )
