"""Guesses at what an unknown word means: names from other trainers, and similar files and classes."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path

ELSEWHERE = {
    "lr": "model.optimizer.lr",
    "learning_rate": "model.optimizer.lr",
    "weight_decay": "model.optimizer.weight_decay",
    "lr_scheduler_type": "model.lr_scheduler",
    "beta": "model.objective.kl_coefficient",
    "kl_coef": "model.objective.kl_coefficient",
    "epsilon": "model.objective.clip_low",
    "epsilon_high": "model.objective.clip_high",
    "loss_type": "model.objective.loss",
    "num_generations": "model.rollout.group_size",
    "generation_batch_size": "model.rollout.prompts",
    "batch_size": "model.rollout.prompts",
    "train_batch_size": "model.rollout.prompts",
    "per_device_train_batch_size": "model.update.microbatches",
    "num_iterations": "model.update.epochs",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_completion_length": "data.max_completion_tokens",
    "max_new_tokens": "data.max_completion_tokens",
    "max_response_length": "data.max_completion_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "num_train_epochs": "schedule.rollouts",
    "max_steps": "schedule.rollouts",
    "total_epochs": "schedule.rollouts",
    "eval_steps": "schedule.validate_every",
    "save_steps": "schedule.checkpoint_every",
    "logging_steps": "schedule.log_every",
    "model_name_or_path": "model.policy.path",
    "torch_dtype": "model.policy.dtype",
    "attn_implementation": "model.policy.attention",
    "gradient_checkpointing": "model.policy.activation_checkpointing",
    "lora_rank": "model.policy.lora.rank",
    "lora_r": "model.policy.lora.rank",
    "lora_alpha": "model.policy.lora.alpha",
    "train_file": "data.train",
    "train_files": "data.train",
    "output_dir": "trainer.logger.save_dir",
    "resume_from_checkpoint": "ckpt_path",
    "seed": "seed_everything",
}
"""Keys by their names in TRL, verl and transformers."""

VALUES = {
    "trainer.precision": {
        "fp16": "16-mixed",
        "float16": "16-mixed",
        "half": "16-mixed",
        "bfloat16": "bf16-mixed",
        "fp32": "32-true",
        "float32": "32-true",
        "no": "32-true",
    },
    "model.policy.dtype": {
        "bf16": "bfloat16",
        "fp32": "float32",
        "fp16": "bfloat16",
        "float16": "bfloat16",
        "auto": "float32",
    },
    "model.policy.activation_checkpointing": {"true": "selective", "false": "off"},
}
"""Values of a key by their other names."""

MODULES = {
    "data": "lit_g2rpo.data",
    "model.objective": "lit_g2rpo.objectives",
    "model.optimizer": "torch.optim",
    "model.lr_scheduler": "torch.optim.lr_scheduler",
    "trainer.callbacks": "lit_g2rpo.callbacks",
    "trainer.logger": "lightning.pytorch.loggers",
}
"""Modules that usually contain the classes of a key."""

FRAGMENTS = {
    "data": ("data",),
    "trainer": ("strategy", "trainer"),
    "model.policy": ("model",),
    "model.objective": ("objective",),
    "model.optimizer": ("optimizer",),
}
"""Folders of ``configs`` whose files fill a key."""

EXTRAS = {"bitsandbytes": "eight_bit", "optimi": "kahan", "peft": "lora", "deepspeed": "deepspeed"}
"""Extras of the package, by the module that they install."""


def near(word: str, known: Iterable[str]) -> str | None:
    """Find the name nearest to a word, ignoring case; None if none is similar."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1)
    inside = sorted((name for name in names if len(word) > 3 and word.lower() in name), key=len)
    return names[(found or inside)[0]] if found or inside else None


def near_file(path: Path) -> Path | None:
    """Find the file nearest to a missing one: next to it, or with its name below ``configs``."""
    if path.parent.is_dir():
        beside = {found.name for found in path.parent.iterdir() if found.suffix == path.suffix and found.is_file()}
        if beside and (name := near(path.name, beside)):
            return path.parent / name
    return min(Path("configs").glob(f"**/{path.name}"), default=None)


def missing_file(path: Path) -> str:
    """Suggest a file for a missing one, as text to append to a message; empty if none is similar."""
    found = near_file(path)
    return f"; did you mean {found}?" if found else ""


def part(key: str, word: str) -> str | None:
    """Find the fragment or class that a word in its place probably means; None if none is similar.

    Args:
        key: the dotted key that it should fill.
    """
    for folder in FRAGMENTS.get(key, ()):
        if (file := Path("configs", folder, f"{word}.yaml")).is_file():
            return str(file)
    return near_class(f"{MODULES[key]}.{word}") if key in MODULES and "/" not in word else None


def near_class(path: str) -> str | None:
    """Find the class probably meant by an import path whose last part does not exist in its module."""
    module, _, name = path.rpartition(".")
    try:
        members = vars(importlib.import_module(module))
    except (ImportError, ValueError):
        return None
    classes = [key for key, value in members.items() if inspect.isclass(value) and key[0] != "_"]
    found = near(name, members.get("__all__") or classes)
    return f"{module}.{found}" if found else None


def class_with(key: str, argument: str) -> str | None:
    """Find a class with a given argument among those that usually fill a key; None if there is none."""
    module = MODULES.get(key)
    found = importlib.import_module(module) if module else None
    for name in getattr(found, "__all__", ()):
        member = getattr(found, name)
        if inspect.isclass(member) and argument in inspect.signature(member).parameters:
            return f"{module}.{name}"
    return None
