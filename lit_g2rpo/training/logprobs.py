"""Log-probabilities of a rollout under the policy being trained and under the reference."""

import torch
from torch import Tensor

from lit_g2rpo.experience import Experience
from lit_g2rpo.hardware.steps import PAUSE, Step
from lit_g2rpo.policy.batching import balanced_bins
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import trained_rows


@torch.no_grad()
def ref_logprobs(run: Run, experience: Experience) -> list[Tensor]:
    """Compute the reference's log-probabilities of the completions to learn from; all ranks must call this.

    Args:
        experience: this rank's part of the rollout.

    Returns:
        ``n`` tensors ``[T_i]`` on the CPU; the rollout's own elsewhere.
    """
    if run.reference is not None:
        return logprobs_of(run, run.reference, experience)
    with run.policy.reference():
        return logprobs_of(run, run.policy, experience)


def logprobs_of(run: Run, policy: Policy, experience: Experience) -> list[Tensor]:
    """Compute a policy's log-probabilities of the completions to learn from.

    Every rank runs the same number of forwards, counting empty ones.

    Args:
        policy: the trained policy, or a frozen one.
        experience: this rank's part of the rollout.

    Returns:
        ``n`` tensors ``[T_i]`` on the CPU; the rollout's own elsewhere.
    """
    chosen = trained_rows(experience.table, run.objective)
    own = scored_rows(policy, experience, chosen, run.update.microbatches)
    return [own.get(i, completion.logprobs) for i, completion in enumerate(experience.completions)]


def scored_rows(policy: Policy, experience: Experience, chosen: Tensor, passes: int) -> dict[int, Tensor]:
    """Compute a policy's log-probabilities of some completions of a rollout.

    Args:
        policy: the trained policy, or a frozen one.
        experience: this rank's part of the rollout.
        chosen: the completions, among those of all ranks, ``[P, G]`` bool.
        passes: number of forwards, counting empty ones.

    Returns:
        Log-probabilities ``[T_i]`` on the CPU, by the index of this rank's completion.
    """
    found: dict[int, Tensor] = {}
    group_size = chosen.shape[1]
    bins = balanced_bins(experience, chosen, passes)
    with Step("log-probabilities", len(bins), "micro-batches", PAUSE) as step:
        for rows in bins:
            tokens = [experience.completions[i].token_ids for i in rows]
            logprobs, _ = policy.token_stats([experience.prompts[i // group_size] for i in rows], tokens)
            found |= dict(zip(rows, torch.split(logprobs.cpu(), [len(t) for t in tokens]), strict=True))
            step.advance()
    return found
