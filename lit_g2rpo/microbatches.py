"""From a scored rollout to the micro-batches it is learned in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.experience import Experience, Microbatch, RolloutTable
from lit_g2rpo.objectives.fields import TokenFields


@dataclass(slots=True, frozen=True)
class Plan:
    """How a rollout is cut into optimizer steps and micro-batches.

    Args:
        epochs: passes over the rollout.
        updates: optimizer steps per pass.
        accumulate: micro-batches per optimizer step and rank.
        entropy_coefficient: weight of the entropy band penalty.
        kl: True if the loss has a KL term, which acts on every token.
    """

    epochs: int
    updates: int
    accumulate: int
    entropy_coefficient: float
    kl: bool


def trained_groups(table: RolloutTable, plan: Plan) -> Tensor:
    """Say which groups have a gradient: not dropped, and not tied at advantage 0 where nothing else acts on them.

    The tokens of a tied group still count in the normaliser; only its forward and backward, which would add zero, are
    left out.

    Args:
        table: the rollout.
        plan: which terms the loss has.

    Returns:
        ``[P]`` bool.
    """
    acts = table.advantages.bool().any(1) | plan.kl
    acts |= (plan.entropy_coefficient * table.entropy_direction[table.task_ids]).bool()
    return table.valid.any(1) & acts


def build_microbatches(experience: Experience, plan: Plan, like: Tensor) -> list[Microbatch]:
    """Cut a rollout into micro-batches whose losses add up to the token mean of each optimizer step.

    Which prompts an optimizer step learns from depends only on their order, and its normaliser counts the tokens of all
    ranks, so the number of ranks and micro-batches changes no gradient. Groups without a gradient are left out.

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
        for rows in balanced_bins(experience, step & trained_groups(table, plan), plan.accumulate):
            microbatches.append(_microbatch(experience, rows, weight, entropy_weight, like))
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


def balanced_bins(experience: Experience, chosen: Tensor, bins: int) -> list[list[int]]:
    """Spread completions of this rank over bins of about equal token counts, groups whole where they fit.

    Args:
        experience: the rollout of this rank.
        chosen: the groups to spread, among those of all ranks, ``[P]`` bool.
        bins: number of bins.

    Returns:
        For each bin, which of this rank's completions it holds, those of a group side by side; some bins may be empty.
    """
    table, group_size = experience.table, experience.table.lengths.shape[1]
    local = range(experience.rank, len(table.lengths), experience.world_size)
    groups = {group: table.lengths[place].tolist() for group, place in enumerate(local) if chosen[place]}
    prompts = {group: len(experience.prompts[group].encoded.input_ids) for group in groups}
    sizes = {group: sum(lengths) + prompts[group] for group, lengths in groups.items()}
    mean = sum(sizes.values()) / bins
    parts: list[tuple[int, list[int]]] = []
    for group, lengths in groups.items():
        # A split repeats the prompt, so it must pay: only a group well above the mean is cut.
        pieces = min(round(sizes[group] / mean), group_size) if sizes[group] > 1.5 * mean else 1
        for rows in _split(lengths, pieces):
            tokens = prompts[group] + sum(lengths[i] for i in rows)
            parts.append((tokens, [group * group_size + i for i in rows]))
    filled: list[list[int]] = [[] for _ in range(bins)]
    tokens_in = [0] * bins
    for tokens, rows in sorted(parts, key=lambda part: (-part[0], part[1])):
        emptiest = tokens_in.index(min(tokens_in))
        filled[emptiest] += rows
        tokens_in[emptiest] += tokens
    return filled


def _split(lengths: list[int], pieces: int) -> list[list[int]]:
    """Cut a group into pieces of about equal tokens, longest completions first."""
    cut: list[list[int]] = [[] for _ in range(pieces)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        min(cut, key=lambda piece: (sum(lengths[j] for j in piece), len(piece))).append(i)
    return [sorted(piece) for piece in cut]


def _microbatch(
    experience: Experience, rows: list[int], weight: float, entropy_weight: Tensor, like: Tensor
) -> Microbatch:
    group_size = experience.table.lengths.shape[1]
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
