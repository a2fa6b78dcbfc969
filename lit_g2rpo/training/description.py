"""What will run, in words."""

from typing import Any


def describe(module: Any) -> dict[str, str]:
    """Describe a run as the rows of a table.

    Args:
        module: the LightningModule, attached to its trainer.

    Returns:
        Rows by name.
    """
    rollout, trainer, updates = module.rollout, module.trainer, module.updates_per_epoch
    # DeepSpeed leaves a weight that it has split empty and notes its size
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.policy.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    per_update = rollout.prompts // updates
    per_microbatch = rollout.prompts / (trainer.world_size * module.update.microbatches)
    return {
        "policy": f"{module.policy_path} ({total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained)",
        "objective": type(module.objective).__name__ + (" with KL" if module.reference_needed else ""),
        "tasks": ", ".join(module.tasks),
        "rollout": f"{rollout.prompts} prompts x {rollout.group_size} = {rollout.prompts * rollout.group_size} "
        f"completions of up to {module.max_tokens} tokens, by {rollout.engine}",
        "updates": f"{module.steps_per_rollout} optimizer steps per rollout, each from {per_update} prompts "
        f"({per_update * rollout.group_size} completions)",
        "micro-batch": f"{per_microbatch:g} prompts ({per_microbatch * rollout.group_size:g} rows) per rank",
        "strategy": f"{type(trainer.strategy).__name__}, {trainer.world_size} x {module.device.type}, "
        f"{trainer.precision}",
    }
