"""One rollout, from prompts to experience."""

import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.distributed import gather_prompts
from lit_g2rpo.experience import Experience, Prompt
from lit_g2rpo.guards import check_prompt_lengths, check_rewards
from lit_g2rpo.microbatches import balanced_bins, trained_rows
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards import score
from lit_g2rpo.rollout.context import generation_context
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.scoring import columns, rollout_metrics, score_rollout


@torch.no_grad()
def collect(module: Any, prompts: list[Prompt]) -> tuple[Experience, dict[str, float]]:
    """Sample, score, filter and form advantages; log-probabilities are computed last, for what is learned from alone.

    Args:
        module: the LightningModule.
        prompts: this rank's prompts.

    Returns:
        The experience, not yet cut into micro-batches, and the metrics of the rollout, the same on every rank.
    """
    clock = [time.perf_counter()]
    config, tasks = module.rollout, list(module.tasks)
    sampling = Sampling(
        module.max_tokens, config.temperature, config.top_p, config.top_k, config.seed, module.rollout_index
    )
    check_prompt_lengths(module, prompts)
    with generation_context(module.trainer.strategy, module.policy):
        completions = module.engine.generate(prompts, config.group_size, sampling)
    clock.append(time.perf_counter())
    rewards = [score(c.text, prompts[i // config.group_size].sample) for i, c in enumerate(completions)]
    values = gather_prompts(module, columns(prompts, completions, rewards, tasks))
    check_rewards(module, values, prompts)
    scored = score_rollout(values, module.objective, module.tasks)
    rank, world = module.trainer.global_rank, module.trainer.world_size
    experience = Experience(
        prompts=prompts,
        completions=completions,
        rewards=rewards,
        old_logprobs=None,
        ref_logprobs=None,
        table=scored.table,
        rank=rank,
        world_size=world,
    )
    clock.append(time.perf_counter())
    if config.old_logprobs == "recompute":
        experience.old_logprobs = _logprobs(module, module.policy, experience)
    if module.reference_needed:
        experience.ref_logprobs = _ref_logprobs(module, experience)
    clock.append(time.perf_counter())
    seconds = [b - a for a, b in pairwise(clock)]
    return experience, rollout_metrics(scored, tasks) | {
        "data/failures": float(getattr(module.trainer.train_dataloader, "failures", 0)),
        "perf/rollout_seconds": seconds[0],
        "perf/score_seconds": seconds[1],
        "perf/logprobs_seconds": seconds[2],
        "perf/tokens_per_second": float(scored.table.lengths.sum()) / seconds[0],
    }


def _ref_logprobs(module: Any, experience: Experience) -> list[Tensor]:
    if module.reference is not None:
        return _logprobs(module, module.reference, experience)
    with module.policy.reference():
        return _logprobs(module, module.policy, experience)


def _logprobs(module: Any, policy: Policy, experience: Experience) -> list[Tensor]:
    """Log-probabilities of what is learned from, ``n`` tensors ``[T_i]`` on the CPU; elsewhere the rollout's own.

    Every rank makes the same number of forwards, empty ones included.
    """
    out = [completion.logprobs for completion in experience.completions]
    group_size = experience.table.lengths.shape[1]
    for rows in balanced_bins(experience, trained_rows(experience.table, module.objective), module.update.microbatches):
        tokens = [experience.completions[i].token_ids for i in rows]
        logprobs, _ = policy.token_stats([experience.prompts[i // group_size] for i in rows], tokens)
        for i, part in zip(rows, torch.split(logprobs.cpu(), [len(t) for t in tokens]), strict=True):
            out[i] = part
    return out
