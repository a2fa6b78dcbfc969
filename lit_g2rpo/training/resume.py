"""A half-learned rollout in a checkpoint: plain tensors of all ranks, in the order of the prompts."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Experience, Prompt, RolloutTable
from lit_g2rpo.hardware.collectives import gather_prompts
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.rollout.sampling import prompt_key
from lit_g2rpo.training.rollout import ref_logprobs

TABLE = tuple(field.name for field in fields(RolloutTable))


def experience_state(module: Any, experience: Experience, max_tokens: int) -> dict[str, Any]:
    """Write a rollout as tensors; all ranks must call it.

    Args:
        experience: this rank's part of the rollout.
        max_tokens: longest completion.

    Returns:
        Tensors ``[P, G, ...]`` by name.
    """
    completions, table = experience.completions, experience.table
    shape = (len(experience.prompts), table.lengths.shape[1])

    def padded(rows: list[Tensor]) -> Tensor:
        out = torch.zeros(len(rows), max_tokens, dtype=rows[0].dtype)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out.view(*shape, max_tokens)

    own = {
        "token_ids": padded([c.token_ids for c in completions]),
        "logprobs": padded([c.logprobs for c in completions]),
        "entropy": padded([c.entropy for c in completions]),
        "truncated": torch.tensor([c.truncated for c in completions]).view(shape),
        "prompt_keys": torch.tensor([prompt_key(p.id) for p in experience.prompts]),
    }
    for name in ("old_logprobs", "ref_logprobs"):
        if getattr(experience, name) is not None:
            own[name] = padded(getattr(experience, name))
    state: dict[str, Any] = {name: gather_prompts(module, tensor) for name, tensor in own.items()}
    return state | {name: getattr(table, name) for name in TABLE} | {"refills": experience.refills}


def restore_experience(module: Any, state: dict[str, Any], prompts: list[Prompt]) -> Experience:
    """Read this rank's part of a rollout back.

    Args:
        state: from ``experience_state``.
        prompts: this rank's prompts, from the data.

    Returns:
        The experience, not yet cut into micro-batches.

    Raises:
        UserError: if the data no longer gives the prompts that were sampled for.
    """
    rank, world = module.trainer.global_rank, module.trainer.world_size
    table = RolloutTable(**{name: state[name] for name in TABLE})
    own = {name: tensor[rank::world] for name, tensor in state.items() if name not in (*TABLE, "refills")}
    prompts = _refilled(module, state["refills"], table, prompts)
    if own["prompt_keys"].tolist() != [prompt_key(p.id) for p in prompts]:
        raise UserError(
            "the data has changed since the checkpoint: it gives other prompts for the rollout being resumed"
        )
    lengths = table.lengths[rank::world]

    def rows(name: str) -> list[Tensor]:
        return [row[:length].clone() for row, length in zip(own[name].flatten(0, 1), lengths.flatten(), strict=True)]

    parts = zip(rows("token_ids"), rows("logprobs"), rows("entropy"), own["truncated"].flatten().tolist(), strict=True)
    completions = [Completion(t, lp, h, module.policy.decode(t), cut) for t, lp, h, cut in parts]
    with generation_context(module.trainer.strategy, module.policy):
        module.policy.prepare_features(prompts)
    experience = Experience(
        prompts=prompts,
        completions=completions,
        rewards=module.count_scores(module.attempt_scores(prompts, completions)),
        old_logprobs=rows("old_logprobs") if "old_logprobs" in own else None,
        ref_logprobs=rows("ref_logprobs") if "ref_logprobs" in own else None,
        table=table,
        rank=rank,
        world_size=world,
        refills=state["refills"],
    )
    # Where KL was off until now; the reference is what it was when the rollout was sampled.
    if module.reference_needed and experience.ref_logprobs is None:
        experience.ref_logprobs = ref_logprobs(module, experience)
    return experience


def _refilled(module: Any, refills: list[list[int]], table: RolloutTable, prompts: list[Prompt]) -> list[Prompt]:
    """Draw again the prompts that took the place of others; the stream is a function of its place."""
    names, rank, world = list(module.tasks), module.trainer.global_rank, module.trainer.world_size
    prompts = list(prompts)
    if not refills:
        return prompts
    owned = [[i for i, slot in enumerate(slots) if slot % world == rank] for slots in refills]
    waves = [
        ([names[int(table.task_ids[slot])] for slot in slots], own) for slots, own in zip(refills, owned, strict=True)
    ]
    drawn = module.trainer.train_dataloader.refill_again(waves)
    for slots, own, fresh in zip(refills, owned, drawn, strict=True):
        for i, prompt in zip(own, fresh, strict=True):
            prompts[slots[i] // world] = prompt
    return prompts
