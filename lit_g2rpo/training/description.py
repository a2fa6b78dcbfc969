"""A description of the run in words."""

from typing import get_args

import torch

from lit_g2rpo.policy.config import Part
from lit_g2rpo.policy.loading import learning_parts
from lit_g2rpo.training.run import Run


def describe(run: Run) -> dict[str, str]:
    """Describe a run as the rows of a table.

    Returns:
        Rows by name.
    """
    rollout, trainer, updates = run.rollout, run.trainer, run.updates_per_epoch
    # DeepSpeed leaves a split weight empty and stores its size
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in run.policy.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    per_update = rollout.prompts // updates
    # the first ranks have one prompt more if the prompts of an optimizer step do not divide evenly over the ranks
    shares = [per_update // trainer.world_size, -(-per_update // trainer.world_size)]
    prompts = [share / trainer.accumulate_grad_batches for share in dict.fromkeys(shares)]
    rows = [share * rollout.group_size for share in prompts]
    return {
        "policy": f"{run.policy_path} ({total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained)",
        "learns": _learns(run),
        "objective": type(run.objective).__name__ + (" with KL" if run.reference_needed else ""),
        "tasks": ", ".join(run.tasks),
        "rollout": f"{rollout.prompts} prompts x {rollout.group_size} = {rollout.prompts * rollout.group_size} "
        f"completions of up to {run.max_tokens} tokens, by {rollout.engine}"
        + (", while the policy learns from the rollout before" if rollout.lag else ""),
        "updates": f"{run.steps_per_rollout} optimizer steps per rollout, each from {per_update} prompts "
        f"({per_update * rollout.group_size} completions)",
        "micro-batch": f"{_either(prompts)} prompts ({_either(rows)} rows) per rank",
        "hardware": f"{trainer.world_size} x {_device(run)}, {type(trainer.strategy).__name__}, precision "
        f"{trainer.precision}",
    }


def _learns(run: Run) -> str:
    learning = learning_parts(run.policy)
    parts = [part for part in get_args(Part) if part in learning]
    adapters = run.policy_config.lora
    if adapters is not None:
        return f"adapters of rank {adapters.rank} in {', '.join(parts)}; all weights of the checkpoint are frozen"
    frozen = [part for part in get_args(Part) if part not in learning]
    return ", ".join(parts) + (f"; {', '.join(frozen)} frozen" if frozen else "")


def _device(run: Run) -> str:
    if run.device.type == "cuda":
        return torch.cuda.get_device_name(run.device)
    return run.device.type.upper()


def _either(numbers: list[float]) -> str:
    return " or ".join(f"{number:g}" for number in numbers)
