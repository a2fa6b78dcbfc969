"""One rollout, from prompts to experience."""

import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.distributed import gather_prompts
from lit_g2rpo.experience import Experience, Prompt
from lit_g2rpo.guards import check_prompt_lengths, check_rewards
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards import score
from lit_g2rpo.rollout.context import generation_context
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.scoring import columns, rollout_metrics, score_rollout


@torch.no_grad()
def collect(module: Any, prompts: list[Prompt]) -> tuple[Experience, dict[str, float]]:
    """Sample, score, filter and form advantages.

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
    clock.append(time.perf_counter())
    tokens = [c.token_ids for c in completions]
    if config.old_logprobs == "recompute":
        for completion, logprobs in zip(completions, _logprobs(module, module.policy, prompts, tokens), strict=True):
            completion.logprobs = logprobs
    ref_logprobs = _ref_logprobs(module, prompts, tokens) if module.reference_needed else None
    clock.append(time.perf_counter())
    values = gather_prompts(module, columns(prompts, completions, rewards, tasks))
    check_rewards(module, values, prompts)
    scored = score_rollout(values, module.objective, module.tasks)
    rank, world = module.trainer.global_rank, module.trainer.world_size
    experience = Experience(
        prompts=prompts,
        completions=completions,
        rewards=rewards,
        total_rewards=scored.rewards[rank::world].flatten(),
        ref_logprobs=ref_logprobs,
        table=scored.table,
        rank=rank,
        world_size=world,
    )
    seconds = [b - a for a, b in pairwise(clock)]
    return experience, rollout_metrics(scored, tasks) | {
        "data/failures": float(getattr(module.trainer.train_dataloader, "failures", 0)),
        "perf/rollout_seconds": seconds[0],
        "perf/score_seconds": seconds[1],
        "perf/logprobs_seconds": seconds[2],
        "perf/tokens_per_second": float(scored.table.lengths.sum()) / seconds[0],
    }


def _ref_logprobs(module: Any, prompts: list[Prompt], tokens: list[Tensor]) -> list[Tensor]:
    if module.reference is not None:
        return _logprobs(module, module.reference, prompts, tokens)
    with module.policy.reference():
        return _logprobs(module, module.policy, prompts, tokens)


def _logprobs(module: Any, policy: Policy, prompts: list[Prompt], tokens: list[Tensor]) -> list[Tensor]:
    """Log-probabilities of a rollout by forwards of micro-batch size, ``n`` tensors ``[T_i]`` on the CPU."""
    rows = [prompt for prompt in prompts for _ in range(module.rollout.group_size)]
    size = max(len(tokens) // module.update.microbatches, 1)
    out: list[Tensor] = []
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        logprobs, _ = policy.token_stats(rows[start : start + size], part)
        out += torch.split(logprobs.cpu(), [len(t) for t in part])
    return out
