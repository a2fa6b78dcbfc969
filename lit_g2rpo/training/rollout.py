"""One rollout, from prompts to experience."""

import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Experience, Prompt
from lit_g2rpo.hardware.collectives import gather_prompts, sum_over_ranks
from lit_g2rpo.hardware.context import generation_context
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.running.scorer import Scored
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.training.background_scoring import BackgroundScoring
from lit_g2rpo.training.checks import check_rewards
from lit_g2rpo.training.microbatches import balanced_bins, trained_rows
from lit_g2rpo.training.table import columns, rollout_metrics, score_rollout, unpack, usable_groups


@torch.no_grad()
def collect(module: Any, prompts: list[Prompt]) -> tuple[Experience, dict[str, float]]:
    """Sample, score, filter and form advantages; log-probabilities are computed last, for what is learned from alone.

    Args:
        prompts: this rank's prompts.

    Returns:
        The experience, not yet cut into micro-batches, and the metrics of the rollout, the same on every rank.
    """
    work = _Rollout(module, prompts)
    first = unpack(work.values, module.objective, module.tasks)
    if module.objective.filtering == "refill":
        work.refill()
    start = time.perf_counter()
    scored = score_rollout(work.values, module.objective, module.tasks)
    experience = Experience(
        prompts=work.prompts,
        completions=work.completions,
        rewards=work.rewards,
        old_logprobs=None,
        ref_logprobs=None,
        table=scored.table,
        rank=work.rank,
        world_size=work.world_size,
        refills=work.refills,
    )
    if module.rollout.old_logprobs == "recompute":
        experience.old_logprobs = _logprobs(module, module.policy, experience)
    if module.reference_needed:
        experience.ref_logprobs = ref_logprobs(module, experience)
    metrics = rollout_metrics(scored, first, list(module.tasks))
    if module.objective.filtering == "refill":
        metrics["rollout/refilled"] = sum(map(len, work.refills)) / len(work.values)
    scorer = module.scorer
    counts = torch.tensor([scorer.failures, scorer.timeouts, scorer.restarts], dtype=torch.float64)
    for name, count in zip(("failures", "timeouts", "restarts"), sum_over_ranks(module, counts).tolist(), strict=True):
        metrics[f"rollout/reward_{name}"] = count
    return experience, metrics | {
        "data/failures": float(getattr(module.trainer.train_dataloader, "failures", 0)),
        "perf/rollout_seconds": work.seconds[0],
        "perf/score_seconds": work.seconds[1],
        "perf/logprobs_seconds": time.perf_counter() - start,
        "perf/tokens_per_second": work.tokens / work.seconds[0],
    }


class _Rollout:
    """What is known of a rollout while it is drawn: this rank's completions, and the columns of all ranks.

    Args:
        prompts: this rank's prompts.
    """

    def __init__(self, module: Any, prompts: list[Prompt]) -> None:
        self.module, self.prompts = module, list(prompts)
        self.rank, self.world_size = module.trainer.global_rank, module.trainer.world_size
        self.seconds, self.tokens = [0.0, 0.0], 0.0
        self.refills: list[list[int]] = []
        self.completions, self.rewards = self._draw(prompts, wave=0)
        self.values = self._gather()

    def refill(self) -> None:
        """Replace groups that teach nothing by groups of further prompts of their task, wave after wave.

        A wave draws exactly as many prompts as are missing, and each takes the place of the group it replaces, on the
        rank that had it: so which prompts are drawn does not depend on the number of ranks, and none is left over.
        """
        names, objective = list(self.module.tasks), self.module.objective
        for wave in range(1, objective.refill_waves + 1):
            column = unpack(self.values, objective, self.module.tasks)
            slots = (~usable_groups(column, objective)).nonzero().flatten().tolist()
            if not slots:
                return
            self.refills.append(slots)
            tasks = [names[int(column["task"][slot, 0])] for slot in slots]
            own = [i for i, slot in enumerate(slots) if slot % self.world_size == self.rank]
            prompts = self.module.trainer.train_dataloader.refill(tasks, own)
            completions, rewards = self._draw(prompts, wave)
            size = self.module.rollout.group_size
            for k, i in enumerate(own):
                place = slots[i] // self.world_size
                self.prompts[place] = prompts[k]
                self.completions[place * size : (place + 1) * size] = completions[k * size : (k + 1) * size]
                self.rewards[place * size : (place + 1) * size] = rewards[k * size : (k + 1) * size]
            self.values = self._gather()

    def _draw(self, prompts: list[Prompt], wave: int) -> tuple[list[Completion], list[RewardResult]]:
        module, config = self.module, self.module.rollout
        clock = [time.perf_counter()]
        sampling = Sampling(
            module.max_tokens, config.temperature, config.top_p, config.top_k, config.seed, module.rollout_index, wave
        )

        def attempt(indices: list[int], own: list[Completion]) -> list[Scored]:
            scored: list[Scored] = module.attempt_scores([prompts[i] for i in indices], own)
            return scored

        with BackgroundScoring(attempt, here=module.scorer.needs_caller) as scoring:
            with generation_context(module.trainer.strategy, module.policy):
                completions = module.engine.generate(prompts, config.group_size, sampling, scoring.finished)
                module.policy.prepare_features(prompts)
            clock.append(time.perf_counter())
            rewards = module.count_scores(scoring.results())
        clock.append(time.perf_counter())
        self.seconds = [total + b - a for total, (a, b) in zip(self.seconds, pairwise(clock), strict=True)]
        self.tokens += sum(len(completion.token_ids) for completion in completions) * self.world_size
        return completions, rewards

    def _gather(self) -> Tensor:
        tasks, policy = self.module.tasks, self.module.policy
        relative = [tasks[prompt.task].relative_length for prompt in self.prompts]
        references = [
            policy.answer_length(prompt) if band is not None and band.unit == "reference" else 0
            for prompt, band in zip(self.prompts, relative, strict=True)
        ]
        own = columns(self.prompts, self.completions, self.rewards, list(tasks), references)
        values = gather_prompts(self.module, own)
        check_rewards(self.module, values, self.prompts)
        return values


@torch.no_grad()
def ref_logprobs(module: Any, experience: Experience) -> list[Tensor]:
    """Log-probabilities under the reference of what is learned from; all ranks must call it.

    Args:
        experience: this rank's part of the rollout.

    Returns:
        ``n`` tensors ``[T_i]`` on the CPU; the rollout's own elsewhere.
    """
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
