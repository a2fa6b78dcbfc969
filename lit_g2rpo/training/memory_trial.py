"""The largest micro-batch that a run can meet, and a trial forward and backward of it that leaves no trace."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_g2rpo.experience import Completion, Experience, Microbatch, Prompt, RolloutTable
from lit_g2rpo.hardware.hooks import forget_gradients
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import Cut, build_microbatches

PROBE = 2**16
"""Elements of the parameter used to measure optimizer state; 8-bit optimizers keep smaller ones in full precision."""


def largest_microbatch(run: Run, prompt: Prompt, length: int) -> Microbatch:
    """Build the largest micro-batch possible with a prompt: every group has it, and all completions are equally long.

    Args:
        prompt: a prompt.
        length: tokens of each completion.

    Returns:
        The micro-batch, cut as in training; it has the same size on every rank.
    """
    world_size, cut, size = run.ranks.count, run.cut, run.rollout.group_size
    prompts = run.rollout.prompts // cut.updates
    encoded = run.policy.encode(prompt)
    # copies, since rows that share a prompt object form one group
    own = [
        dataclasses.replace(prompt, encoded=dataclasses.replace(encoded, features=None))
        for _ in range(-(-prompts // world_size))
    ]
    tokens = torch.full((length,), run.policy.eos_token_ids[0])
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
        task_ids=torch.full(shape[:1], list(run.tasks).index(prompt.task)),
        problem_type_ids=torch.zeros(shape[0], dtype=torch.long),
        entropy_direction=torch.ones(len(run.tasks), dtype=torch.float64),
    )
    experience = Experience(
        prompts=own,
        completions=completions,
        rewards=[],
        old_logprobs=values if run.rollout.old_logprobs == "recompute" else None,
        ref_logprobs=values if run.reference_needed else None,
        table=table,
        rank=0,
        world_size=world_size,
    )
    one_update = Cut(1, 1, cut.accumulate, cut.max_tokens, cut.objective)
    microbatches = build_microbatches(experience, one_update, run.policy.empty)
    return max(microbatches, key=lambda microbatch: sum(map(len, microbatch.token_ids)))


def trial_pass(run: Run, microbatch: Microbatch) -> float:
    """Run forward and backward of a micro-batch under the run's strategy, next to a full-size optimizer state.

    Weights, optimizer, random state and counters are unchanged. All ranks must call this together.

    Args:
        microbatch: the micro-batch.

    Returns:
        Its loss.
    """
    strategy = run.trainer.strategy
    held = torch.empty(missing_optimizer_bytes(run), dtype=torch.uint8, device=run.device)
    try:
        with isolate_rng(), getattr(strategy, "block_backward_sync", nullcontext)():
            loss = in_step(run, lambda: run.policy.loss(microbatch, run.objective.token_loss)[0])
            strategy.backward(loss, run.trainer.optimizers[0])
            return float(loss.detach())
    finally:
        forget_gradients(strategy, run.trainer.lightning_module)
        del held


def in_step(run: Run, function: Callable[[], Tensor]) -> Tensor:
    """Call a function like a training step: in the run's precision and inside the strategy's wrapper.

    Args:
        function: the function to call.

    Returns:
        Its result.
    """
    strategy, module = run.trainer.strategy, run.trainer.lightning_module
    with run.trainer.precision_plugin.train_step_context():
        if strategy.model is module:
            return function()
        assert strategy.model is not None, "a strategy holds its model once it is set up"
        return cast(Tensor, strategy._forward_redirection(strategy.model, module, "perform", function))


def missing_optimizer_bytes(run: Run) -> int:
    """Compute the memory that the optimizer's state will take on this rank once it has made its first step.

    Returns:
        Bytes; 0 if the state already exists.
    """
    [optimizer] = run.trainer.optimizers
    if optimizer.state:
        return 0
    counts: dict[torch.dtype, int] = {}
    for parameter in run.policy.parameters():
        if parameter.requires_grad:
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + local.numel()
    return sum(int(state_bytes(run.optimizer, dtype, run.device) * count) for dtype, count in counts.items())


def state_bytes(make: Callable[[Any], Optimizer], dtype: torch.dtype, device: torch.device) -> float:
    """Measure the optimizer's state of one weight.

    Args:
        make: creates the optimizer from groups of parameters.
        dtype: type of the weight.
        device: device of the weight.

    Returns:
        Bytes.
    """
    probe = nn.Parameter(torch.zeros(PROBE, dtype=dtype, device=device))
    probe.grad = torch.zeros_like(probe)
    optimizer = make([{"params": [probe]}])
    optimizer.step()
    return sum(value.nbytes for value in optimizer.state[probe].values() if isinstance(value, Tensor)) / PROBE
