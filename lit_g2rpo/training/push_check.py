"""The gap between engine and trainer right after a push, for a rollout that is learned from with newer weights."""

import torch

from lit_g2rpo.errors import EngineGapError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.training.engine_gap import gap, gap_error
from lit_g2rpo.training.run import Run

TOKENS = 32
"""Longest completion to compare; the rollout waits for them."""


class PushCheck:
    """Sample the beginnings of a few completions and compare their log-probabilities with the trainer's.

    The prompts are the first of the rollout, ``gap_checks`` over all ranks, so they do not depend on the ranks.

    Args:
        run: the run.
        prompts: this rank's prompts of the rollout.
    """

    def __init__(self, run: Run, prompts: list[Prompt]) -> None:
        count, ranks = run.rollout.gap_checks, run.ranks
        self._run, self._prompts = run, prompts[: len(range(ranks.rank, count, ranks.count))]
        self._completions: list[Completion] = []

    def sample(self) -> None:
        """Sample from what was just pushed; call this on gathered weights."""
        config = self._run.rollout
        if not self._prompts:
            return
        tokens = min(self._run.cut.max_tokens, TOKENS)
        sampling = Sampling(tokens, config.temperature, seed=config.seed, rollout=self._run.rollout_index)
        self._completions = self._run.engine.generate(self._prompts, 1, sampling)
        self._run.policy.prepare_features(self._prompts)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Compare, before the policy learns; all ranks must call this.

        Returns:
            ``rollout/engine_gap_mean`` and ``rollout/engine_gap_max``, nats, the same on every rank; empty if the run
            checks nothing.

        Raises:
            EngineGapError: on every rank, if the gap is above the run's limits.
        """
        run, completions = self._run, self._completions
        if not run.rollout.gap_checks:
            return {}
        own, _ = run.policy.token_stats(self._prompts, [completion.token_ids for completion in completions])
        gaps = gap(own, torch.cat([own[:0].cpu(), *(completion.logprobs for completion in completions)]))
        total, tokens = run.ranks.sum(torch.stack([gaps.sum(), gaps.new_tensor(len(gaps))])).tolist()
        largest = float(run.ranks.largest(torch.cat([gaps.new_zeros(1), gaps]).max()))
        if wrong := gap_error(run, total / tokens, largest, int(tokens)):
            raise EngineGapError(wrong)
        return {"rollout/engine_gap_mean": total / tokens, "rollout/engine_gap_max": largest}
