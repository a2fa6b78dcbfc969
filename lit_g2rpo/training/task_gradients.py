"""How strongly each task pulls: the norm of its gradient in one micro-batch, on the last decoder layer."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import trained_rows


@dataclass(slots=True, frozen=True)
class TaskGradient:
    """Pull of a task in one micro-batch.

    Args:
        norm: gradient norm of the loss of its rows alone, over all ranks.
        tokens: its completion tokens, over all ranks.
    """

    norm: float
    tokens: int


def task_gradients(run: Run, microbatch: Microbatch) -> dict[str, TaskGradient]:
    """Measure the gradient of each task's rows separately, at the cost of about one forward of the micro-batch.

    Nothing is accumulated: the policy's weights, their ``.grad``, random state and counters are unchanged. All ranks
    must call this together; a rank without rows of a task takes part with an empty micro-batch.

    Args:
        microbatch: this rank's rows.

    Returns:
        Pull by task, the same on every rank, without tasks that have no token in any rank's micro-batch; empty if
        `measured_parameters` finds none.
    """
    parameters = measured_parameters(run.policy)
    assert run.experience is not None, "a rollout has been collected"
    table = run.experience.table
    tasks, present = list(run.tasks), trained_rows(table, run.objective).any(1)
    # over all ranks, so that every rank runs the same forwards
    names = [tasks[k] for k in sorted(set(table.task_ids[present].tolist()))]
    if not names or not parameters:
        return {}
    parts = [rows_of_task(microbatch, name) for name in names]
    norms = [_gradient_norm(run, part, parameters) for part in parts]
    tokens = run.ranks.sum(torch.tensor([sum(map(len, part.token_ids)) for part in parts]))
    return {
        name: TaskGradient(float(norm), int(count))
        for name, norm, count in zip(names, norms, tokens, strict=True)
        if count
    }


def measured_parameters(policy: Policy) -> list[nn.Parameter]:
    """List the parameters to measure: those of the last decoder layer that are trained and not split over ranks.

    Returns:
        The parameters; empty if the layer is frozen or its weights are split over ranks.
    """
    layer = policy.backbone.layers[-1]
    # DeepSpeed marks the weights it splits with an id; FSDP's have a local part
    return [p for p in layer.parameters() if p.requires_grad and not hasattr(p, "ds_id") and not hasattr(p, "to_local")]


def rows_of_task(microbatch: Microbatch, task: str) -> Microbatch:
    """Extract the rows of one task from a micro-batch.

    Args:
        microbatch: rows of any tasks.
        task: name of the task.

    Returns:
        Its rows with their loss fields, in order; possibly none.
    """
    rows = [i for i, prompt in enumerate(microbatch.prompts) if prompt.task == task]
    chosen = torch.zeros(len(microbatch.prompts), dtype=torch.bool)
    chosen[rows] = True
    lengths = torch.tensor([len(tokens) for tokens in microbatch.token_ids], dtype=torch.long)
    mask = chosen.repeat_interleave(lengths).to(microbatch.fields.weight.device)
    values = {field.name: getattr(microbatch.fields, field.name) for field in dataclasses.fields(microbatch.fields)}
    fields = dataclasses.replace(
        microbatch.fields, **{name: value[mask] for name, value in values.items() if value is not None}
    )
    if fields.completion_ids is not None:
        # ids must stay below the number of tokens
        fields.completion_ids = torch.unique(fields.completion_ids, return_inverse=True)[1]
    return Microbatch([microbatch.prompts[i] for i in rows], [microbatch.token_ids[i] for i in rows], fields)


def _gradient_norm(run: Run, microbatch: Microbatch, parameters: list[nn.Parameter]) -> Tensor:
    """Compute the gradient norm of a micro-batch's loss, averaged over ranks, a scalar."""
    policy, trainer = run.policy, run.trainer
    own, policy.backbone.counters = policy.backbone.counters, Counters()
    devices = [policy.device] if policy.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad(), trainer.precision_plugin.train_step_context():
            loss, _ = policy.loss(microbatch, run.objective.token_loss)
        # not backward(), which would accumulate gradients and run hooks of the optimizer or strategy
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    finally:
        # the loader's thread may have preprocessed images in the meantime
        own.images_preprocessed += policy.backbone.counters.images_preprocessed
        policy.backbone.counters = own
    means = [trainer.strategy.reduce(gradient.float(), reduce_op="mean") for gradient in gradients]
    return torch.nn.utils.get_total_norm(means)
