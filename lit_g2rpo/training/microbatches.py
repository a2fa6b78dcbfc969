"""From a scored rollout to the micro-batches it is learned in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.experience import Experience, Microbatch, RolloutTable
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.objectives.losses import truncated_importance
from lit_g2rpo.objectives.objective import Objective


@dataclass(slots=True, frozen=True)
class Cut:
    """How a rollout is cut into optimizer steps and micro-batches.

    Args:
        epochs: passes over the rollout.
        updates: optimizer steps per pass.
        accumulate: micro-batches per optimizer step and rank.
        max_tokens: longest completion.
        objective: which terms the loss has, and over what it is a mean.
    """

    epochs: int
    updates: int
    accumulate: int
    max_tokens: int
    objective: Objective


def trained_rows(table: RolloutTable, objective: Objective) -> Tensor:
    """Say which completions have a gradient: those with an advantage or a KL term, or of a task outside its band.

    The entropy band acts on dropped groups too: where a task collapses, they are all that it has left. The tokens of a
    tied group that was not dropped still count in the normaliser; only its forward and backward, which would add zero,
    are left out.

    Args:
        table: the rollout.
        objective: which terms the loss has.

    Returns:
        ``[P, G]`` bool.
    """
    pulled = table.advantages.bool().any(1) | (objective.kl_coefficient > 0)
    outside = (objective.entropy_coefficient * table.entropy_direction[table.task_ids]).bool()
    return table.valid & pulled[:, None] | table.entropy_counts & outside[:, None]


def build_microbatches(experience: Experience, cut: Cut, like: Tensor) -> list[Microbatch]:
    """Cut a rollout into micro-batches whose losses add up to the token mean of each optimizer step.

    Which prompts an optimizer step learns from depends only on their order, and its normaliser counts the tokens of all
    ranks, so the number of ranks and micro-batches changes no gradient. Groups without a gradient are left out.

    Args:
        experience: the rollout of this rank.
        cut: how it is cut.
        like: an empty tensor of the device and type that the loss fields get.

    Returns:
        ``epochs * updates * accumulate`` micro-batches; some may be empty.
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
    """Share of each completion's tokens in the loss of one optimizer step, 0 where it does not count, ``[P, G]``."""
    lengths, counted = table.lengths.double(), counted.double()
    if cut.objective.mean == "token":
        return counted / max(float((lengths * counted).sum()), 1)
    completions = max(int(counted.sum()), 1)
    if cut.objective.mean == "completion":
        return counted / (completions * lengths)
    return counted / (completions * cut.max_tokens)


def _entropy_weights(table: RolloutTable, counted: Tensor, cut: Cut) -> Tensor:
    """Coefficient of a token's entropy by task in one optimizer step, ``[K]``: a mean over the task's tokens."""
    tokens = (table.lengths * counted).sum(1).double()
    per_task = torch.zeros_like(table.entropy_direction).index_add_(0, table.task_ids, tokens)
    return cut.objective.entropy_coefficient * table.entropy_direction / per_task.clamp(min=1)


def balanced_bins(experience: Experience, chosen: Tensor, bins: int) -> list[list[int]]:
    """Spread completions of this rank over bins of about equal token counts, groups whole where they fit.

    Args:
        experience: the rollout of this rank.
        chosen: the completions to spread, among those of all ranks, ``[P, G]`` bool.
        bins: number of bins.

    Returns:
        For each bin, which of this rank's completions it holds, those of a group side by side; some bins may be empty.
    """
    group_size = chosen.shape[1]
    own = slice(experience.rank, None, experience.world_size)
    lengths = experience.table.lengths[own].flatten().tolist()
    rows_of: dict[int, list[int]] = {}
    for row in chosen[own].flatten().nonzero().flatten().tolist():
        rows_of.setdefault(row // group_size, []).append(row)
    prompts = {group: len(experience.prompts[group].encoded.input_ids) for group in rows_of}
    sizes = {group: prompts[group] + sum(lengths[i] for i in rows) for group, rows in rows_of.items()}
    mean = sum(sizes.values()) / bins
    parts: list[tuple[int, list[int]]] = []
    for group, rows in rows_of.items():
        # A split repeats the prompt, so it must pay: only a group well above the mean is cut.
        pieces = min(round(sizes[group] / mean), len(rows)) if sizes[group] > 1.5 * mean else 1
        parts += [(prompts[group] + sum(lengths[i] for i in piece), piece) for piece in _split(rows, lengths, pieces)]
    filled: list[list[int]] = [[] for _ in range(bins)]
    tokens_in = [0] * bins
    for tokens, rows in sorted(parts, key=lambda part: (-part[0], part[1])):
        emptiest = tokens_in.index(min(tokens_in))
        filled[emptiest] += rows
        tokens_in[emptiest] += tokens
    return filled


def _split(rows: list[int], lengths: list[int], pieces: int) -> list[list[int]]:
    """Cut a group into pieces of about equal tokens, longest completions first."""
    cut: list[list[int]] = [[] for _ in range(pieces)]
    for i in sorted(rows, key=lambda i: (-lengths[i], i)):
        min(cut, key=lambda piece: (sum(lengths[j] for j in piece), len(piece))).append(i)
    return [sorted(piece) for piece in cut]


def _microbatch(
    experience: Experience, rows: list[int], weight: Tensor, entropy_weight: Tensor, cut: Cut, like: Tensor
) -> Microbatch:
    own = slice(experience.rank, None, experience.world_size)
    group_size = weight.shape[1]
    index = torch.tensor(rows, dtype=torch.long)
    completions = [experience.completions[i] for i in rows]
    lengths = torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long)
    task_ids = experience.table.task_ids[own][index // group_size].repeat_interleave(lengths)
    none = like.cpu()

    def flat(values: list[Tensor]) -> Tensor:
        return torch.cat([none, *(values[i] for i in rows)]).to(like)

    sampled = [c.logprobs for c in experience.completions]
    old, ref, cap = experience.old_logprobs, experience.ref_logprobs, cut.objective.importance_cap
    old_logprobs = flat(sampled if old is None else old)
    fields = TokenFields(
        advantages=experience.advantages[index].repeat_interleave(lengths).to(like),
        old_logprobs=old_logprobs,
        ref_logprobs=None if ref is None else flat(ref),
        weight=weight[own].flatten()[index].repeat_interleave(lengths).to(like),
        entropy_weight=entropy_weight[task_ids].to(like),
        task_ids=task_ids.to(like.device),
        completion_ids=None
        if cut.objective.elementwise
        else torch.arange(len(rows)).repeat_interleave(lengths).to(like.device),
        importance=None if old is None or cap is None else truncated_importance(old_logprobs, flat(sampled), cap),
    )
    return Microbatch([experience.prompts[i // group_size] for i in rows], [c.token_ids for c in completions], fields)
