"""From a checkpoint's name to a policy ready to train."""

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3VLForConditionalGeneration

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import LoraConfig, Part, PolicyConfig
from lit_g2rpo.policy.forward.checkpointing import checkpoint_activations
from lit_g2rpo.policy.forward.packing import prepare_for_packing
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor


def load_policy(config: PolicyConfig) -> Policy:
    """Load model and processor, freeze what does not learn, and add adapters if asked.

    Args:
        config: where the policy comes from and which parts learn.

    Returns:
        The policy, on the CPU (or sharded, where the strategy says so).

    Raises:
        UserError: if the checkpoint is missing or of another architecture.
    """
    path = resolve_path(config.path)
    try:
        processor = ImageOnlyQwen3VLProcessor.from_pretrained(path)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            path, dtype=getattr(torch, config.dtype), attn_implementation=config.attention
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.policy.path '{config.path}' cannot be loaded as a Qwen3-VL checkpoint: {reason}; "
            "give a folder written by save_pretrained or a hub name such as Qwen/Qwen3-VL-2B-Instruct"
        ) from error
    size = dict(processor.image_processor.size)
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    processor.image_processor.size = size
    return Policy(
        prepare(model, config),
        processor,
        packing=config.packing,
        packed_attention=config.packed_attention,
        features_on_device_mib=config.features_on_device_mib,
        shapes=config.shapes,
    )


def prepare(model: PreTrainedModel, config: PolicyConfig) -> Any:
    """Freeze what does not learn, choose what is recomputed, and add adapters if asked.

    Args:
        model: a Qwen3-VL model, changed in place.
        config: which parts learn and how.

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
    freeze(model, frozen)
    checkpoint_activations(model, config.activation_checkpointing)
    if config.packing:
        prepare_for_packing(model)
    return with_adapters(model, lora) if lora else model


def resolve_path(path: str) -> str:
    """Turn ``package:<module>/<folder>`` into a folder; leave every other name as it is.

    Args:
        path: the ``path`` of a policy's config.

    Returns:
        A folder or a hub name.

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


def part_of(name: str) -> Part:
    """Say which part of a Qwen3-VL model a weight belongs to.

    Args:
        name: name of the weight.

    Returns:
        ``vision`` (the tower without its mergers), ``merger`` or ``language``.
    """
    if ".visual." not in name:
        return "language"
    return "merger" if "merger" in name else "vision"


def freeze(model: PreTrainedModel, parts: list[Part]) -> None:
    """Stop the named parts from learning.

    Args:
        model: a Qwen3-VL model.
    """
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)


def learning_parts(policy: Policy) -> dict[Part, list[torch.nn.Parameter]]:
    """Group what learns by part.

    Returns:
        The parameters that learn, by part; parts without one left out.
    """
    groups: dict[Part, list[torch.nn.Parameter]] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(part_of(name), []).append(parameter)
    return groups


def with_adapters(model: PreTrainedModel, lora: LoraConfig) -> Any:
    """Wrap linear layers with low-rank adapters.

    Args:
        model: a Qwen3-VL model.
        lora: size and place of the adapters.

    Returns:
        The model as a ``peft`` model.

    Raises:
        UserError: if ``peft`` is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UserError('model.policy.lora needs peft: pip install "lit_g2rpo[lora]"') from error
    targets = rf".*language_model.*\.({'|'.join(lora.targets)})"
    if lora.vision:
        targets += r"|.*visual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)"
    return peft.get_peft_model(
        model,
        peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets),
    )
