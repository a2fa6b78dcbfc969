"""From sampled completions to micro-batches: shaped rewards, kept groups and advantages, over all ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Experience, Microbatch, Prompt, RolloutTable
from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.filtering import kept_groups
from lit_g2rpo.objectives.losses import truncated_importance
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.relative_bands import reference_length_reward
from lit_g2rpo.objectives.shaping import entropy_direction, length_reward, overlong_penalty
from lit_g2rpo.policy.batching import balanced_bins
from lit_g2rpo.rewards import RewardResult, problem_type_id
from lit_g2rpo.tasks import Task

COLUMNS = (
    "total", "accuracy", "format", "structure", "length", "truncated", "entropy", "logprobs", "task", "problem_type",
    "reference", "scored", "version",
)  # fmt: skip
"""Values of a completion that every rank knows."""
Columns = dict[str, Tensor]
"""Value of each of ``COLUMNS`` for each completion, ``[P, G]`` each."""


@dataclass(slots=True, frozen=True)
class Cut:
    """The division of a rollout into optimizer steps and micro-batches.

    Args:
        epochs: passes over the rollout.
        updates: optimizer steps per pass.
        accumulate: micro-batches per optimizer step and rank.
        max_tokens: longest completion.
        objective: decides the terms of the loss, and what it averages over.
    """

    epochs: int
    updates: int
    accumulate: int
    max_tokens: int
    objective: Objective


def to_share(
    prompts: list[Prompt],
    completions: list[Completion],
    rewards: list[RewardResult],
    tasks: list[str],
    references: list[int],
) -> Tensor:
    """Collect what other ranks need to know about this rank's ``p`` prompts, ``[p, G, len(COLUMNS)]`` float64.

    Args:
        references: length of each prompt's reference answer, tokens; 0 if no band needs it.
    """
    group_size = len(completions) // len(prompts)
    rows = []
    for i, (completion, reward) in enumerate(zip(completions, rewards, strict=True)):
        prompt = prompts[i // group_size]
        rows.append([
            reward.total, reward.accuracy, reward.format, reward.structure,
            len(completion.token_ids), completion.truncated,
            completion.entropy.double().sum().item(), completion.logprobs.double().sum().item(),
            tasks.index(prompt.task), problem_type_id(prompt.problem_type), references[i // group_size],
            reward.failure is None, completion.version,
        ])  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64).view(len(prompts), group_size, len(COLUMNS))


def shaped_columns(values: Tensor, objective: Objective, tasks: dict[str, Task], max_tokens: int) -> Columns:
    """Split all ranks' values ``[P, G, len(COLUMNS)]`` by name, and add ``length_reward`` and the shaped ``reward``.

    Args:
        max_tokens: longest completion.
    """
    column = dict(zip(COLUMNS, values.unbind(-1), strict=True))
    shaped = column["accuracy"].clone()
    for k, task in enumerate(tasks.values()):
        rows = column["task"] == k
        lengths, relative = column["length"][rows], task.relative_length
        if task.length is not None:
            shaped[rows] = length_reward(lengths, task.length)
        elif relative is not None and relative.unit == "reference":
            shaped[rows] = reference_length_reward(lengths, column["reference"][rows], relative)
        else:
            continue
        if objective.length_needs_accuracy:
            shaped[rows] *= column["accuracy"][rows]
    # The length reward replaces a share of accuracy; an exempt task keeps that share, so its reward is unchanged.
    reward = column["total"] + objective.length_weight * (shaped - column["accuracy"])
    if objective.overlong_weight:
        overlong = overlong_penalty(column["length"], max_tokens, objective.overlong_share)
        reward = reward - objective.overlong_weight * overlong
    return column | {"length_reward": shaped, "reward": reward}


def usable_groups(column: Columns, objective: Objective) -> Tensor:
    """Return which groups teach something, ``[P]`` bool; all of them if filtering is off."""
    accuracy, scored = column["accuracy"], column["scored"].bool()
    if objective.filtering == "off":
        return torch.ones(len(accuracy), dtype=torch.bool)
    groups = torch.arange(len(accuracy))[:, None].expand(accuracy.shape)
    kept = torch.zeros_like(scored)
    kept[scored] = kept_groups(
        accuracy[scored], [reward[scored] for reward in objective.compared(column)], groups[scored],
        low=objective.accuracy_low, high=objective.accuracy_high,
    )  # fmt: skip
    return kept.any(1)


def build_table(column: Columns, usable: Tensor, objective: Objective, tasks: dict[str, Task]) -> RolloutTable:
    """Compute the advantages of usable groups, ``[P]`` bool; a completion without a score is removed from its group."""
    shape = column["reward"].shape
    kept = usable[:, None].expand(shape)
    if objective.needs_groups:
        kept = kept & column["scored"].bool()
    task_ids, problem_type_ids = column["task"].long(), column["problem_type"].long()
    batch = ScoredBatch(
        rewards=column["reward"].flatten(),
        components={name: column[name].flatten() for name in ("accuracy", "format", "structure", "length")},
        group_ids=torch.arange(len(kept))[:, None].expand(shape).flatten(),
        task_ids=task_ids.flatten(),
        problem_type_ids=problem_type_ids.flatten(),
        valid=kept.flatten(),
    )
    advantages = objective.advantages(batch)
    if advantages.shape != batch.rewards.shape:
        raise UserError(
            f"the advantages of model.objective {type(objective).__name__} have shape {list(advantages.shape)}; return "
            f"one for each completion: {list(batch.rewards.shape)}"
        )
    unmasked = ~(column["truncated"].bool() & objective.mask_truncated)
    return RolloutTable(
        rewards=column["reward"],
        lengths=column["length"].long(),
        valid=kept & unmasked,
        entropy_counts=unmasked,
        advantages=advantages.view(shape),
        task_ids=task_ids[:, 0],
        problem_type_ids=problem_type_ids[:, 0],
        entropy_direction=_entropy_directions(column, objective, tasks),
    )


def _entropy_directions(column: Columns, objective: Objective, tasks: dict[str, Task]) -> Tensor:
    """Find which side of its band each task is on, times its ``entropy_scale``, ``[K]``."""
    uncertainty = column["entropy"] if objective.entropy == "exact" else -column["logprobs"]
    direction = torch.zeros(len(tasks), dtype=torch.float64)
    for k, task in enumerate(tasks.values()):
        rows = column["task"] == k
        if task.entropy is not None and rows.any():
            mean = uncertainty[rows].sum() / column["length"][rows].sum()
            direction[k] = task.entropy_scale * entropy_direction(float(mean), task.entropy)
    return direction


def trained_rows(table: RolloutTable, objective: Objective) -> Tensor:
    """Return which completions have a gradient, ``[P, G]`` bool: an advantage, a KL term, or a task outside its band.

    The entropy band also applies to dropped groups, since a collapsed task has nothing else left. The tokens of a tied
    group that was not dropped still count in the normalizer; only its forward and backward, which would add zero, are
    skipped.
    """
    pulled = table.advantages.bool().any(1) | (objective.kl_coefficient > 0)
    outside = (objective.entropy_coefficient * table.entropy_direction[table.task_ids]).bool()
    return table.valid & pulled[:, None] | table.entropy_counts & outside[:, None]


def build_microbatches(experience: Experience, cut: Cut, like: Tensor) -> list[Microbatch]:
    """Cut a rollout into micro-batches whose losses add up to the token mean of each optimizer step.

    The prompts of an optimizer step depend only on their order, and its normalizer counts the tokens of all ranks, so
    the number of ranks and micro-batches does not change the gradient. Groups without a gradient are left out.

    Args:
        like: an empty tensor with the device and dtype for the loss fields.
    """
    table = experience.table
    prompts = len(table.lengths)
    trained = trained_rows(table, cut.objective)
    microbatches = []
    for update in range(cut.updates):
        step = torch.zeros(prompts, 1, dtype=torch.bool)
        step[update * prompts // cut.updates : (update + 1) * prompts // cut.updates] = True
        # The trainer divides by the micro-batches of a step and the strategy averages over ranks.
        scale = cut.accumulate * experience.world_size
        weight = scale * _token_weights(table, table.valid & step, cut)
        entropy_weight = scale * _entropy_weights(table, table.entropy_counts & step, cut)
        for rows in balanced_bins(experience, trained & step, cut.accumulate):
            microbatches.append(_microbatch(experience, rows, weight, entropy_weight, cut, like))
    return microbatches * cut.epochs


def _token_weights(table: RolloutTable, counted: Tensor, cut: Cut) -> Tensor:
    """Compute the weight of each completion's tokens in an optimizer step, 0 if it does not count, ``[P, G]``."""
    lengths, counted = table.lengths.double(), counted.double()
    if cut.objective.mean == "token":
        return counted / max(float((lengths * counted).sum()), 1)
    completions = max(int(counted.sum()), 1)
    if cut.objective.mean == "completion":
        return counted / (completions * lengths)
    return counted / (completions * cut.max_tokens)


def _entropy_weights(table: RolloutTable, counted: Tensor, cut: Cut) -> Tensor:
    """Compute the weight of a token's entropy per task in an optimizer step, ``[K]``: a mean over the task's tokens."""
    tokens = (table.lengths * counted).sum(1).double()
    per_task = torch.zeros_like(table.entropy_direction).index_add_(0, table.task_ids, tokens)
    return cut.objective.entropy_coefficient * table.entropy_direction / per_task.clamp(min=1)


def _microbatch(
    experience: Experience, rows: list[int], weight: Tensor, entropy_weight: Tensor, cut: Cut, like: Tensor
) -> Microbatch:
    own = slice(experience.rank, None, experience.world_size)
    group_size = weight.shape[1]
    index = torch.tensor(rows, dtype=torch.long)
    completions = [experience.completions[i] for i in rows]
    lengths = torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long)
    task_ids = experience.table.task_ids[own][index // group_size].repeat_interleave(lengths)

    def sent(values: Tensor) -> Tensor:
        return send(values.to(like.dtype), like.device)

    def flat(values: list[Tensor]) -> Tensor:
        return sent(torch.cat([torch.empty(0, dtype=like.dtype), *(values[i] for i in rows)]))

    sampled = [c.logprobs for c in experience.completions]
    old, ref, cap = experience.old_logprobs, experience.ref_logprobs, cut.objective.importance_cap
    old_logprobs = flat(sampled if old is None else old)
    fields = TokenFields(
        advantages=sent(experience.advantages[index].repeat_interleave(lengths)),
        old_logprobs=old_logprobs,
        ref_logprobs=None if ref is None else flat(ref),
        weight=sent(weight[own].flatten()[index].repeat_interleave(lengths)),
        entropy_weight=sent(entropy_weight[task_ids]),
        task_ids=send(task_ids, like.device),
        completion_ids=None
        if cut.objective.elementwise
        else send(torch.arange(len(rows)).repeat_interleave(lengths), like.device),
        importance=None if old is None or cap is None else truncated_importance(old_logprobs, flat(sampled), cap),
    )
    return Microbatch([experience.prompts[i // group_size] for i in rows], [c.token_ids for c in completions], fields)
