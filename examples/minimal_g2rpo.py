"""Gaussian GRPO (G2RPO) in one file: the whole method on a toy, in plain PyTorch, for reading.

    python examples/minimal_g2rpo.py

The method trains one policy on many tasks by reinforcement learning. Of every prompt it samples a group of completions,
scores them, and asks only how each ranks among the others. Ranks become the quantiles of a standard normal, so a task
whose rewards are 0 or 1, one whose rewards are tiny and dense, and one with rare outliers all pull equally hard.

    sample -> reward (+ length) -> drop useless groups -> ranks to normal advantages -> clipped loss (+ entropy band)

Equation numbers are those of arXiv 2604.08539; where its text and its released code differ, this follows the code.
"""

from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------------------
# 1. Rewards to advantages


def normal_scores(rewards: list[float], tie_tolerance: float = 1e-6) -> list[float]:
    """Equations 5-8. The i-th smallest of N rewards gets the normal quantile of (i - 0.5) / N; ties share their mean.

    [0, 0, 0, 0, 1] gives [-0.32, -0.32, -0.32, -0.32, 1.28], and so does [0, 0, 0, 0, 100].
    """
    n = len(rewards)
    order = sorted(range(n), key=lambda i: rewards[i])
    quantile = [NormalDist().inv_cdf((rank + 0.5) / n) for rank in range(n)]
    scores = [0.0] * n
    start = 0
    for stop in range(1, n + 1):
        # A tie class ends where the next reward is clearly larger (or where there is none).
        if stop == n or rewards[order[stop]] - rewards[order[stop - 1]] > tie_tolerance:
            for rank in range(start, stop):
                scores[order[rank]] = sum(quantile[start:stop]) / (stop - start)
            start = stop
    return scores


def map_within(values: list[float], keys: list[int]) -> list[float]:
    """Apply the map separately to the values of each key."""
    out = [0.0] * len(values)
    for key in set(keys):
        members = [i for i, k in enumerate(keys) if k == key]
        for i, score in zip(members, normal_scores([values[i] for i in members]), strict=True):
            out[i] = score
    return out


def gaussian_advantages(rewards: list[float], groups: list[int], tasks: list[int]) -> list[float]:
    """First rank inside each group (who did best on this prompt?), then those scores across the whole task.

    One group of right-or-wrong rewards has few distinct ranks, and so less than unit variance. The second pass restores
    it for the task as a whole; being right on a hard prompt then counts for more than being right on an easy one.
    """
    return map_within(map_within(rewards, groups), tasks)


def keep(accuracy: list[float], rewards: list[float], groups: list[int]) -> list[bool]:
    """Keep groups that are neither all right nor all wrong and whose rewards differ: the others have nothing to say.

    They must go *before* the second pass above, which would rank their zeros against the rest and give them a sign.
    """
    good = set()
    for group in set(groups):
        members = [i for i, g in enumerate(groups) if g == group]
        mean = sum(accuracy[i] for i in members) / len(members)
        in_order = sorted(rewards[i] for i in members)
        differs = any(b - a > 1e-6 for a, b in pairwise(in_order))
        if 0.01 < mean < 0.99 and differs:
            good.add(group)
    return [group in good for group in groups]


# ---------------------------------------------------------------------------------------------------------------------
# 2. Shaping: how long to answer, how random to be


def length_reward(length: float, minimum: float, low: float, high: float, maximum: float) -> float:
    """Equation 9: 1 between low and high, 0 outside [minimum, maximum], straight lines between."""
    if length < minimum or length > maximum:
        return 0.0
    if length < low:
        return (length - minimum) / (low - minimum)
    if length > high:
        return (maximum - length) / (maximum - high)
    return 1.0


def entropy_direction(entropy: float, low: float, high: float) -> int:
    """Slope of the entropy penalty, equation 10: 1 above the band (push down), -1 below it (push up), 0 inside."""
    return (entropy > high) - (entropy < low)


# ---------------------------------------------------------------------------------------------------------------------
# 3. The loss


def g2rpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    entropy: Tensor,
    tasks: Tensor,
    *,
    kept: Tensor,
    entropy_directions: dict[int, int],
    ref_logprobs: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    dual_clip: float = 3.0,
    kl_coefficient: float = 0.0,
    entropy_coefficient: float = 0.02,
) -> Tensor:
    """Compute the loss of one optimizer step. Token tensors are [N, T]; advantages, tasks and kept are [N].

    kept is False for completions of dropped groups, on which the entropy band alone acts: a task that has collapsed has
    no other groups. entropy holds the entropy of each token's distribution under the current policy (with gradient),
    and entropy_directions the direction of each task, decided once from the entropy at sampling time.
    """
    counted = mask & kept[:, None]
    tokens = counted.sum().clamp(min=1)

    # Clipped policy gradient, equation 1. Raising the probability of a good token pays until the ratio is
    # 1 + clip_high; lowering that of a bad one pays until it is 1 - clip_low. The dual clip bounds the loss of a bad
    # token whose probability has *risen* since it was sampled: without it, a single such token could decide the step.
    ratio = (logprobs - old_logprobs).exp()
    a = advantages[:, None]
    surrogate = torch.min(ratio * a, ratio.clamp(1 - clip_low, 1 + clip_high) * a)
    surrogate = torch.where(a < 0, torch.max(surrogate, dual_clip * a), surrogate)
    loss = -(surrogate * counted).sum() / tokens  # the mean over all tokens: long completions count by their length

    # An optional leash to a reference policy: the estimate r - 1 - log r of the KL divergence, never negative.
    if ref_logprobs is not None:
        log_r = ref_logprobs - logprobs
        loss = loss + kl_coefficient * ((log_r.exp() - 1 - log_r) * counted).sum() / tokens

    # Entropy band: the mean entropy of each task, pushed towards its band.
    for task, direction in entropy_directions.items():
        of_task = mask & (tasks == task)[:, None]
        if of_task.any():
            loss = loss + entropy_coefficient * direction * entropy[of_task].mean()
    return loss


# ---------------------------------------------------------------------------------------------------------------------
# 4. A toy: three tasks whose rewards live on different scales

VOCABULARY, LENGTH, END = 8, 6, 0  # token 0 ends a completion
PROMPTS_PER_TASK, GROUP = 16, 8
LENGTH_BAND = (0, 2, 4, 6)  # answer in 2 to 4 tokens
ENTROPY_BAND = (0.2, 0.6)


def accuracy_of(task: int, completion: list[int], target: list[int]) -> float:
    """Right or wrong by the first token; or the share of right tokens; or the square of that share (rarely high)."""
    share = sum(a == b for a, b in zip(completion, target, strict=False)) / len(target)
    return (float(completion[0] == target[0]), share, share**2)[task]


TASKS = ("choice", "overlap", "points")
SCALE = (1.0, 0.01, 100.0)  # the same reward function could pay in any currency


def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Draw [N, T] tokens from [N, T, V] logits, and mark those up to and including the first END."""
    tokens = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(logits.shape[:2])
    ended_before = (tokens == END).cumsum(1) - (tokens == END).long()
    return tokens, ended_before == 0


def token_statistics(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of the distribution it was drawn from, [N, T] both."""
    logp = logits.log_softmax(-1)
    return logp.gather(-1, tokens[..., None]).squeeze(-1), -(logp.exp() * logp).sum(-1)


def main(rollouts: int = 60, updates: int = 4, seed: int = 0) -> None:
    """Train a table of logits, one row of T distributions per prompt, and print the accuracy of each task."""
    torch.manual_seed(seed)
    prompts = len(TASKS) * PROMPTS_PER_TASK
    targets = torch.randint(1, VOCABULARY, (prompts, 3)).tolist()
    policy = torch.nn.Parameter(torch.zeros(prompts, LENGTH, VOCABULARY))
    optimizer = torch.optim.Adam([policy], lr=0.05)
    prompt = torch.arange(prompts).repeat_interleave(GROUP)  # [N]: the group of each completion
    task = prompt // PROMPTS_PER_TASK  # [N]

    for rollout in range(rollouts + 1):
        # Sample a group of completions per prompt and score them.
        with torch.no_grad():
            tokens, mask = sample(policy[prompt])
            old_logprobs, old_entropy = token_statistics(policy[prompt], tokens)
        groups, tasks = prompt.tolist(), task.tolist()
        rows = zip(tasks, tokens.tolist(), groups, strict=True)
        accuracy = [accuracy_of(t, completion, targets[g]) for t, completion, g in rows]
        lengths = mask.sum(1).tolist()
        rewards = [
            SCALE[t] * (0.9 * a + 0.1 * length_reward(n, *LENGTH_BAND))
            for t, a, n in zip(tasks, accuracy, lengths, strict=True)
        ]
        if rollout % 10 == 0:
            means = [torch.tensor(accuracy)[task == t].mean() for t in range(len(TASKS))]
            line = "  ".join(f"{name} {mean:.3f}" for name, mean in zip(TASKS, means, strict=True))
            print(f"rollout {rollout:3d}  accuracy: {line}  length {sum(lengths) / len(lengths):.2f}")

        # Drop what teaches nothing, rank the rest.
        kept = torch.tensor(keep(accuracy, rewards, groups))
        useful = kept.nonzero().flatten().tolist()
        advantages = torch.zeros(len(rewards))
        advantages[kept] = torch.tensor(
            gaussian_advantages([rewards[i] for i in useful], [groups[i] for i in useful], [tasks[i] for i in useful])
        )
        directions = {
            t: entropy_direction(old_entropy[mask & (task == t)[:, None]].mean().item(), *ENTROPY_BAND)
            for t in range(len(TASKS))
        }

        # A few clipped steps on the same completions, each on its own share of the prompts.
        for part in range(updates):
            rows_of_part = prompt % updates == part
            logprobs, entropy = token_statistics(policy[prompt[rows_of_part]], tokens[rows_of_part])
            loss = g2rpo_loss(
                logprobs,
                old_logprobs[rows_of_part],
                advantages[rows_of_part],
                mask[rows_of_part],
                entropy,
                task[rows_of_part],
                kept=kept[rows_of_part],
                entropy_directions=directions,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
