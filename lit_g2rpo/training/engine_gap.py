"""The gap between engine and trainer: how far apart the log-probabilities are that they give the same tokens."""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from lit_g2rpo.errors import EngineGapError
from lit_g2rpo.experience import Experience
from lit_g2rpo.training.logprobs import scored_rows
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import trained_rows

LIMITS = {True: (0.02, 2.0), False: (1e-4, 0.01)}
"""Largest mean and largest single difference of log-probabilities, nats, with and without 16-bit arithmetic."""


@torch.no_grad()
def check_engine_gap(run: Run, experience: Experience) -> dict[str, float]:
    """Compare the log-probabilities of a few completions of a rollout with the trainer's; all ranks must call this.

    The completions follow from seed and rollout, one per prompt while there are enough, so they do not depend on the
    ranks. Every rank runs the same number of forwards, and none if the rollout's log-probabilities were recomputed:
    then the completions are among those to learn from.

    Args:
        experience: this rank's part of the rollout.

    Returns:
        ``rollout/engine_gap_mean`` and ``rollout/engine_gap_max``, nats, the same on every rank; empty if there is
        nothing to compare.

    Raises:
        EngineGapError: on every rank, if the gap is above the run's limits.
    """
    table, recomputed = experience.table, experience.old_logprobs
    among = torch.ones_like(table.valid) if recomputed is None else trained_rows(table, run.objective)
    chosen = choose(among, run.rollout.gap_checks, (run.rollout.seed, run.rollout_index))
    if not run.engine.samples or not chosen.any():
        return {}
    if recomputed is None:
        most = max(int(chosen[rank :: experience.world_size].sum()) for rank in range(experience.world_size))
        own = scored_rows(run.policy, experience, chosen, min(most, run.update.microbatches))
    else:
        rows = chosen[experience.rank :: experience.world_size].flatten().nonzero().flatten().tolist()
        own = {row: recomputed[row] for row in rows}
    differences = [gap(logprobs, experience.completions[i].logprobs) for i, logprobs in own.items()]
    gaps = torch.cat([torch.zeros(0, dtype=torch.float64), *differences])
    total, tokens = run.ranks.sum(torch.stack([gaps.sum(), gaps.new_tensor(len(gaps))])).tolist()
    largest = float(run.ranks.largest(torch.cat([gaps.new_zeros(1), gaps]).max()))
    if wrong := gap_error(run, total / tokens, largest, int(tokens)):
        raise EngineGapError(f"rollout {run.rollout_index + 1}: {wrong}; the run stops before it learns from it")
    return {"rollout/engine_gap_mean": total / tokens, "rollout/engine_gap_max": largest}


def choose(among: Tensor, count: int, counters: tuple[int, int]) -> Tensor:
    """Choose completions at random, those of different prompts first.

    Args:
        among: completions to choose from, ``[P, G]`` bool.
        count: how many; fewer if there are not enough.
        counters: the run's seed and the index of the rollout, which determine the choice.

    Returns:
        The chosen completions, ``[P, G]`` bool.
    """
    chosen = torch.zeros_like(among)
    if count:
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence(counters))).permutation(among.numel())
        rows = [int(row) for row in order if among.flatten()[row]]
        before: Counter[int] = Counter()
        turns = []
        for row in rows:
            turns.append(before[row // among.shape[1]])
            before[row // among.shape[1]] += 1
        first = sorted(range(len(rows)), key=turns.__getitem__)[:count]
        chosen.view(-1)[[rows[i] for i in first]] = True
    return chosen


def gap(trainer: Tensor, engine: Tensor) -> Tensor:
    """Compute how far apart log-probabilities are, nats, ``[T]`` float64; infinite where one of them is not finite."""
    return (trainer.double().cpu() - engine.double().cpu()).abs().nan_to_num(torch.inf)


def gap_error(run: Run, mean: float, largest: float, tokens: int) -> str:
    """Explain a gap that is above the run's limits.

    Args:
        mean: mean difference, nats.
        largest: largest difference of a token, nats.
        tokens: number of tokens compared.

    Returns:
        One line; empty if the gap is allowed.
    """
    weight = next(run.policy.parameters())
    low = weight.dtype.itemsize < 4 or "16" in str(run.trainer.precision)
    own = run.rollout.mean_gap, run.rollout.max_gap
    limits = [usual if given is None else given for given, usual in zip(own, LIMITS[low], strict=True)]
    if mean <= limits[0] and largest <= limits[1]:
        return ""
    return (
        f"{gap_line(run, mean, largest, tokens)}; allowed are {limits[0]:g} and {limits[1]:g} (model.rollout.mean_gap, "
        f"max_gap): the engine does not sample from the trained weights as the trainer computes "
        f"them; look for {run.engine.gap_causes}"
    )


def gap_line(run: Run, mean: float, largest: float, tokens: int) -> str:
    """Format a gap; arguments are those of `gap_error`."""
    name = run.rollout.engine
    return (
        f"engine {name} and trainer differ by {mean:.1e} nats on average (at most {largest:.1e}) over {tokens} tokens"
    )
