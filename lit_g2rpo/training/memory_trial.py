"""The largest micro-batch that a run can meet, and a forward and backward of it that leaves no trace."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lit_g2rpo.experience import Completion, Experience, Microbatch, Prompt, RolloutTable
from lit_g2rpo.hardware.hooks import forget_gradients
from lit_g2rpo.training.microbatches import Plan, build_microbatches

PROBE = 2**16
"""Elements of the parameter that the optimizer's state is measured on: more than eight-bit optimizers leave whole."""


def largest_microbatch(module: Any, prompt: Prompt, length: int) -> Microbatch:
    """Build the largest micro-batch that this prompt could give: every group has it, every completion one length.

    Args:
        module: the LightningModule, attached to its trainer.
        prompt: a prompt.
        length: tokens of each completion.

    Returns:
        The micro-batch, cut as training cuts its own; on every rank of the same size.
    """
    world_size, plan, size = module.trainer.world_size, module.plan, module.rollout.group_size
    prompts = module.rollout.prompts // plan.updates
    encoded = module.policy.encode(prompt)
    # copies, since rows of one prompt object are one group
    own = [
        dataclasses.replace(prompt, encoded=dataclasses.replace(encoded, features=None))
        for _ in range(-(-prompts // world_size))
    ]
    tokens = torch.full((length,), module.policy.eos_token_ids[0])
    zeros = torch.zeros(length)
    completions = [Completion(tokens, zeros, zeros, "", True)] * (len(own) * size)
    values = [zeros] * len(completions)
    shape = (len(own) * world_size, size)
    table = RolloutTable(
        rewards=torch.zeros(shape),
        lengths=torch.full(shape, length),
        valid=torch.ones(shape, dtype=torch.bool),
        entropy_counts=torch.ones(shape, dtype=torch.bool),
        advantages=torch.ones(shape),
        task_ids=torch.full(shape[:1], list(module.tasks).index(prompt.task)),
        problem_type_ids=torch.zeros(shape[0], dtype=torch.long),
        entropy_direction=torch.ones(len(module.tasks), dtype=torch.float64),
    )
    experience = Experience(
        prompts=own,
        completions=completions,
        rewards=[],
        old_logprobs=values if module.rollout.old_logprobs == "recompute" else None,
        ref_logprobs=values if module.reference_needed else None,
        table=table,
        rank=0,
        world_size=world_size,
    )
    one_update = Plan(1, 1, plan.accumulate, plan.max_tokens, plan.objective)
    microbatches = build_microbatches(experience, one_update, module.policy.empty)
    return max(microbatches, key=lambda microbatch: sum(map(len, microbatch.token_ids)))


def trial_pass(module: Any, microbatch: Microbatch) -> float:
    """Run forward and backward of a micro-batch under the run's strategy, beside an optimizer state of full size.

    Weights, optimizer, random numbers and counters stay as they are. All ranks must call this together.

    Args:
        module: the LightningModule, outside a training step.
        microbatch: the micro-batch.

    Returns:
        Its loss.
    """
    strategy = module.trainer.strategy
    held = torch.empty(missing_optimizer_bytes(module), dtype=torch.uint8, device=module.device)
    try:
        with isolate_rng(), getattr(strategy, "block_backward_sync", nullcontext)():
            loss = in_step(module, lambda: module.policy.loss(microbatch, module.objective.token_loss)[0])
            strategy.backward(loss, module.trainer.optimizers[0])
            return float(loss.detach())
    finally:
        forget_gradients(strategy, module)
        del held


def in_step(module: Any, function: Callable[[], Tensor]) -> Tensor:
    """Call a function as training steps are called: in the run's precision, inside what the strategy wraps around.

    Args:
        function: what to call.

    Returns:
        What it returns.
    """
    strategy = module.trainer.strategy
    with module.trainer.precision_plugin.train_step_context():
        if strategy.model is module:
            return function()
        found: Tensor = strategy._forward_redirection(strategy.model, module, "perform", function)
        return found


def missing_optimizer_bytes(module: Any) -> int:
    """Count the memory that the optimizer's state will take on this rank from its first step on.

    Args:
        module: the LightningModule with its optimizer made.

    Returns:
        Bytes; 0 where the state is there already.
    """
    [optimizer] = module.trainer.optimizers
    if optimizer.state:
        return 0
    counts: dict[torch.dtype, int] = {}
    for parameter in module.policy.parameters():
        if parameter.requires_grad:
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + local.numel()
    return sum(int(state_bytes(module, dtype) * count) for dtype, count in counts.items())


def state_bytes(module: Any, dtype: torch.dtype) -> float:
    """Measure the optimizer's state of one weight.

    Args:
        dtype: type of the weight.

    Returns:
        Bytes.
    """
    probe = nn.Parameter(torch.zeros(PROBE, dtype=dtype, device=module.device))
    probe.grad = torch.zeros_like(probe)
    optimizer = module.optimizer([{"params": [probe]}])
    optimizer.step()
    return sum(value.nbytes for value in optimizer.state[probe].values() if isinstance(value, Tensor)) / PROBE
