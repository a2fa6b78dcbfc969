"""From sampled completions to rewards, filtered groups and advantages, over all ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt, RolloutTable
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.filtering import kept_groups
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.shaping import entropy_direction, length_reward
from lit_g2rpo.rewards import PROBLEM_TYPES, RewardResult
from lit_g2rpo.tasks import Task

COLUMNS = (
    "total", "accuracy", "format", "structure", "length", "truncated", "entropy", "logprobs", "task", "problem_type",
)  # fmt: skip
"""What is known of a completion on every rank."""


def columns(
    prompts: list[Prompt], completions: list[Completion], rewards: list[RewardResult], tasks: list[str]
) -> Tensor:
    """Write what other ranks must know of this rank's completions as numbers.

    Args:
        prompts: this rank's prompts, ``p`` of them.
        completions: their completions, prompt by prompt.
        rewards: the score of each completion.
        tasks: names of all tasks of the run.

    Returns:
        ``[p, G, len(COLUMNS)]`` float64.
    """
    group_size = len(completions) // len(prompts)
    rows = []
    for i, (completion, reward) in enumerate(zip(completions, rewards, strict=True)):
        prompt = prompts[i // group_size]
        rows.append([
            reward.total, reward.accuracy, reward.format, reward.structure,
            len(completion.token_ids), completion.truncated,
            completion.entropy.double().sum().item(), completion.logprobs.double().sum().item(),
            tasks.index(prompt.task), PROBLEM_TYPES.index(prompt.problem_type),
        ])  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64).view(len(prompts), group_size, len(COLUMNS))


@dataclass(slots=True)
class ScoredRollout:
    """A rollout of all ranks after scoring.

    Args:
        columns: value of each of ``COLUMNS`` for each completion, ``[P, G]`` each.
        table: what learning needs.
    """

    columns: dict[str, Tensor]
    table: RolloutTable


def score_rollout(values: Tensor, objective: Objective, tasks: dict[str, Task]) -> ScoredRollout:
    """Shape rewards, drop groups that teach nothing, and form advantages.

    Args:
        values: ``[P, G, len(COLUMNS)]`` float64, of all ranks.
        objective: says how.
        tasks: tasks of the run with their bands, in the order of their indices.

    Returns:
        The scored rollout.
    """
    column = dict(zip(COLUMNS, values.unbind(-1), strict=True))
    task_ids, groups = column["task"].long(), torch.arange(values.shape[0])[:, None].expand(values.shape[:2])
    shaped = column["accuracy"].clone()
    direction = torch.zeros(len(tasks), dtype=torch.float64)
    for k, task in enumerate(tasks.values()):
        rows = task_ids == k
        if not rows.any():
            continue
        if task.length is not None:
            shaped[rows] = length_reward(column["length"][rows], task.length)
            if objective.length_needs_accuracy:
                shaped[rows] *= column["accuracy"][rows]
        if task.entropy is not None:
            uncertainty = column["entropy"] if objective.entropy == "exact" else -column["logprobs"]
            direction[k] = entropy_direction(
                float(uncertainty[rows].sum() / column["length"][rows].sum()), task.entropy
            )
    # The length reward takes its share from accuracy, so an exempt task, whose share stays accuracy, is unchanged.
    rewards = column["total"] + objective.length_weight * (shaped - column["accuracy"])
    column["length_reward"] = shaped
    group_ids = groups.flatten()
    valid = torch.ones(len(group_ids), dtype=torch.bool)
    if objective.filtering != "off":
        valid = kept_groups(
            column["accuracy"].flatten(), rewards.flatten(), group_ids,
            low=objective.accuracy_low, high=objective.accuracy_high,
        )  # fmt: skip
    batch = ScoredBatch(
        rewards=rewards.flatten(),
        components={name: column[name].flatten() for name in ("accuracy", "format", "structure", "length")},
        group_ids=group_ids,
        task_ids=task_ids.flatten(),
        problem_type_ids=column["problem_type"].long().flatten(),
        valid=valid,
    )
    column["dropped"] = (~valid).double().view(values.shape[:2])
    counted = valid.view(values.shape[:2]) & ~(column["truncated"].bool() & objective.mask_truncated)
    table = RolloutTable(
        rewards=rewards,
        lengths=column["length"].long(),
        valid=counted,
        advantages=objective.advantages(batch).view(values.shape[:2]),
        task_ids=task_ids[:, 0],
        problem_type_ids=column["problem_type"].long()[:, 0],
        entropy_direction=direction,
    )
    return ScoredRollout(column, table)


def rollout_metrics(scored: ScoredRollout, tasks: list[str]) -> dict[str, float]:
    """Means over all completions of a rollout, overall and per task.

    Args:
        scored: the rollout.
        tasks: names of all tasks of the run.

    Returns:
        ``rollout/<name>`` and ``rollout/<name>/<task>``, tasks without a prompt left out.
    """
    column, table = scored.columns, scored.table
    per_completion = {
        "reward": table.rewards,
        "accuracy": column["accuracy"],
        "format": column["format"],
        "length": column["length"],
        "length_reward": column["length_reward"],
        "truncated": column["truncated"],
        "dropped": column["dropped"],
        "advantage_rms": table.advantages**2,
    }
    metrics: dict[str, float] = {}
    everything = {"": torch.ones_like(table.task_ids, dtype=torch.bool)}
    for suffix, rows in (everything | {f"/{name}": table.task_ids == k for k, name in enumerate(tasks)}).items():
        if not rows.any():
            continue
        for name, values in per_completion.items():
            metrics[f"rollout/{name}{suffix}"] = float(values[rows].mean())
        metrics[f"rollout/advantage_rms{suffix}"] **= 0.5
        tokens = column["length"][rows].sum()
        metrics[f"rollout/entropy{suffix}"] = float(column["entropy"][rows].sum() / tokens)
        metrics[f"rollout/nll{suffix}"] = float(-column["logprobs"][rows].sum() / tokens)
    return metrics
