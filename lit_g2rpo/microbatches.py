"""From a scored rollout to the micro-batches it is learned in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.experience import Experience, Microbatch
from lit_g2rpo.objectives.fields import TokenFields


@dataclass(slots=True, frozen=True)
class Plan:
    """How a rollout is cut into optimizer steps and micro-batches.

    Args:
        epochs: passes over the rollout.
        updates: optimizer steps per pass.
        accumulate: micro-batches per optimizer step and rank.
        entropy_coefficient: weight of the entropy band penalty.
    """

    epochs: int
    updates: int
    accumulate: int
    entropy_coefficient: float


def build_microbatches(experience: Experience, plan: Plan, like: Tensor) -> list[Microbatch]:
    """Cut a rollout into micro-batches whose losses add up to the token mean of each optimizer step.

    Which prompts an optimizer step learns from depends only on their order, and its normaliser counts the tokens of all
    ranks, so the number of ranks and micro-batches changes no gradient. Dropped groups are left out.

    Args:
        experience: the rollout of this rank.
        plan: how it is cut.
        like: an empty tensor of the device and type that the loss fields get.

    Returns:
        ``epochs * updates * accumulate`` micro-batches; some may be empty.
    """
    table = experience.table
    prompts = len(table.lengths)
    microbatches = []
    for update in range(plan.updates):
        step = torch.zeros(prompts, dtype=torch.bool)
        step[update * prompts // plan.updates : (update + 1) * prompts // plan.updates] = True
        weight, entropy_weight = _weights(experience, plan, step)
        for groups in _balanced_bins(experience, step, plan.accumulate):
            microbatches.append(_microbatch(experience, groups, weight, entropy_weight, like))
    return microbatches * plan.epochs


def _weights(experience: Experience, plan: Plan, step: Tensor) -> tuple[float, Tensor]:
    """Weight of a counted token's loss, and of a token's entropy by task ``[K]``, in one optimizer step."""
    table = experience.table
    counted = table.lengths * table.valid * step[:, None]
    # The trainer divides by the micro-batches of a step and the strategy averages over ranks.
    scale = plan.accumulate * experience.world_size
    per_task = torch.zeros_like(table.entropy_direction).index_add_(0, table.task_ids, counted.sum(1).double())
    entropy_weight = plan.entropy_coefficient * table.entropy_direction * scale / per_task.clamp(min=1)
    return scale / max(int(counted.sum()), 1), entropy_weight


def _balanced_bins(experience: Experience, step: Tensor, bins: int) -> list[list[int]]:
    """Spread this rank's usable groups of one optimizer step over bins of about equal token counts."""
    table = experience.table
    local = range(experience.rank, len(table.lengths), experience.world_size)
    sizes = {
        group: int(table.lengths[position].sum())
        for group, position in enumerate(local)
        if step[position] and table.valid[position].any()
    }
    filled: list[list[int]] = [[] for _ in range(bins)]
    for group in sorted(sizes, key=lambda g: (-sizes[g], g)):
        min(filled, key=lambda groups: sum(sizes[g] for g in groups)).append(group)
    return filled


def _microbatch(
    experience: Experience, groups: list[int], weight: float, entropy_weight: Tensor, like: Tensor
) -> Microbatch:
    group_size = experience.table.lengths.shape[1]
    rows = [i for g in groups for i in range(g * group_size, (g + 1) * group_size)]
    prompts = [experience.prompts[i // group_size] for i in rows]
    completions = [experience.completions[i] for i in rows]
    lengths = torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long)
    of_prompt = experience.table.task_ids[experience.rank :: experience.world_size]
    task_ids = of_prompt[torch.tensor([i // group_size for i in rows], dtype=torch.long)].repeat_interleave(lengths)
    advantages = experience.advantages[torch.tensor(rows, dtype=torch.long)].repeat_interleave(lengths)
    none, ref = like.cpu(), experience.ref_logprobs
    fields = TokenFields(
        advantages=advantages.to(like),
        old_logprobs=torch.cat([none, *(c.logprobs for c in completions)]).to(like),
        ref_logprobs=None if ref is None else torch.cat([none, *(ref[i] for i in rows)]).to(like),
        weight=like.new_full((len(advantages),), weight),
        entropy_weight=entropy_weight[task_ids].to(like),
        task_ids=task_ids.to(like.device),
    )
    return Microbatch(prompts, [c.token_ids for c in completions], fields)
