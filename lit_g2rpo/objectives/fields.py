"""Inputs of an objective: scored completions before the loss, and flat token fields inside it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class ScoredBatch:
    """The scored completions of one rollout over all ranks, in the order of the prompts.

    Args:
        rewards: total reward of each completion, shaping included, ``[N]``.
        components: named parts of the reward (``accuracy``, ``format``, ``structure``, ``length``), each ``[N]``.
        group_ids: prompt of each completion, ``[N]`` long.
        task_ids: index of the completion's task, ``[N]`` long.
        problem_type_ids: index of the completion's problem type, ``[N]`` long.
        valid: False for completions whose group was dropped, ``[N]`` bool.
    """

    rewards: Tensor
    components: dict[str, Tensor]
    group_ids: Tensor
    task_ids: Tensor
    problem_type_ids: Tensor
    valid: Tensor


@dataclass(slots=True)
class TokenFields:
    """Inputs of the token loss besides the policy's outputs, flat over the ``M`` tokens of a micro-batch.

    Args:
        advantages: advantage of the token's completion, ``[M]``.
        old_logprobs: log-probability under the trainer's policy at sampling time, nats, ``[M]``.
        ref_logprobs: log-probability under the reference, nats, ``[M]``; None when KL is off.
        weight: the token's weight in the loss: 1 / normalizer (times the trainer's later divisor), 0 if it does not
            count, ``[M]``.
        entropy_weight: weight of the token's entropy in the loss: the coefficient times the side of the task's band
            (+1 above, -1 below, 0 inside) over the task's number of tokens, ``[M]``.
        task_ids: index of the token's task, ``[M]`` long.
        completion_ids: the token's completion in the micro-batch, ``[M]`` long; None if the loss is elementwise.
        importance: correction for an engine whose probabilities differ from the trainer's, ``[M]``; None for none.
    """

    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    weight: Tensor
    entropy_weight: Tensor
    task_ids: Tensor
    completion_ids: Tensor | None = None
    importance: Tensor | None = None
