"""From sampled completions to rewards, filtered groups and advantages, over all ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt, RolloutTable
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.filtering import kept_groups
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.relative_bands import reference_length_reward
from lit_g2rpo.objectives.shaping import entropy_direction, length_reward
from lit_g2rpo.rewards import RewardResult, problem_type_id
from lit_g2rpo.tasks import Task

COLUMNS = (
    "total", "accuracy", "format", "structure", "length", "truncated", "entropy", "logprobs", "task", "problem_type",
    "reference",
)  # fmt: skip
"""What is known of a completion on every rank."""


def columns(
    prompts: list[Prompt],
    completions: list[Completion],
    rewards: list[RewardResult],
    tasks: list[str],
    references: list[int],
) -> Tensor:
    """Write what other ranks must know of this rank's completions as numbers.

    Args:
        prompts: this rank's prompts, ``p`` of them.
        completions: their completions, prompt by prompt.
        rewards: the score of each completion.
        tasks: names of all tasks of the run.
        references: length of each prompt's reference answer, tokens; 0 where no band asks for it.

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
            tasks.index(prompt.task), problem_type_id(prompt.problem_type), references[i // group_size],
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


def unpack(values: Tensor, objective: Objective, tasks: dict[str, Task]) -> dict[str, Tensor]:
    """Name the columns, and shape the rewards.

    Args:
        values: ``[P, G, len(COLUMNS)]`` float64, of all ranks.
        objective: says how.
        tasks: tasks of the run with their bands, in the order of their indices.

    Returns:
        Value of each of ``COLUMNS`` for each completion, ``[P, G]`` each, with ``length_reward`` and the shaped
        ``reward``.
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
    # The length reward takes its share from accuracy, so an exempt task, whose share stays accuracy, is unchanged.
    reward = column["total"] + objective.length_weight * (shaped - column["accuracy"])
    return column | {"length_reward": shaped, "reward": reward}


def usable_groups(column: dict[str, Tensor], objective: Objective) -> Tensor:
    """Say which groups teach something.

    Args:
        column: from `unpack`.
        objective: says how groups are filtered.

    Returns:
        ``[P]`` bool, all True where nothing is filtered.
    """
    accuracy = column["accuracy"]
    if objective.filtering == "off":
        return torch.ones(len(accuracy), dtype=torch.bool)
    groups = torch.arange(len(accuracy))[:, None].expand(accuracy.shape)
    kept = kept_groups(
        accuracy.flatten(), column["reward"].flatten(), groups.flatten(),
        low=objective.accuracy_low, high=objective.accuracy_high,
    )  # fmt: skip
    return kept.view(accuracy.shape)[:, 0]


def score_rollout(values: Tensor, objective: Objective, tasks: dict[str, Task]) -> ScoredRollout:
    """Shape rewards, drop groups that teach nothing, and form advantages.

    Args:
        values: ``[P, G, len(COLUMNS)]`` float64, of all ranks.
        objective: says how.
        tasks: tasks of the run with their bands, in the order of their indices.

    Returns:
        The scored rollout.
    """
    column = unpack(values, objective, tasks)
    shape = column["reward"].shape
    valid = usable_groups(column, objective)[:, None].expand(shape)
    task_ids, problem_type_ids = column["task"].long(), column["problem_type"].long()
    batch = ScoredBatch(
        rewards=column["reward"].flatten(),
        components={name: column[name].flatten() for name in ("accuracy", "format", "structure", "length")},
        group_ids=torch.arange(len(valid))[:, None].expand(shape).flatten(),
        task_ids=task_ids.flatten(),
        problem_type_ids=problem_type_ids.flatten(),
        valid=valid.flatten(),
    )
    unmasked = ~(column["truncated"].bool() & objective.mask_truncated)
    table = RolloutTable(
        rewards=column["reward"],
        lengths=column["length"].long(),
        valid=valid & unmasked,
        entropy_counts=unmasked,
        advantages=objective.advantages(batch).view(shape),
        task_ids=task_ids[:, 0],
        problem_type_ids=problem_type_ids[:, 0],
        entropy_direction=_entropy_directions(column, objective, tasks),
    )
    return ScoredRollout(column | {"dropped": (~valid).double()}, table)


def _entropy_directions(column: dict[str, Tensor], objective: Objective, tasks: dict[str, Task]) -> Tensor:
    """Side of its band that each task is on, times its ``entropy_scale``, ``[K]``."""
    uncertainty = column["entropy"] if objective.entropy == "exact" else -column["logprobs"]
    direction = torch.zeros(len(tasks), dtype=torch.float64)
    for k, task in enumerate(tasks.values()):
        rows = column["task"] == k
        if task.entropy is not None and rows.any():
            mean = uncertainty[rows].sum() / column["length"][rows].sum()
            direction[k] = task.entropy_scale * entropy_direction(float(mean), task.entropy)
    return direction
