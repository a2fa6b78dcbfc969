"""Metrics of one rollout, overall and per task."""

import torch
from torch import Tensor

from lit_g2rpo.training.table import ScoredRollout


def rollout_metrics(scored: ScoredRollout, first: dict[str, Tensor], tasks: list[str]) -> dict[str, float]:
    """Means over all completions of a rollout, overall and per task.

    Args:
        scored: what is learned from.
        first: the columns of what was drawn first, which say how good the policy is: groups that replaced others were
            chosen for not being all right or all wrong.
        tasks: names of all tasks of the run.

    Returns:
        ``rollout/<name>`` and ``rollout/<name>/<task>``, tasks without a prompt left out.
    """
    table = scored.table
    means = {name: first[name] for name in ("reward", "accuracy", "format", "length", "length_reward", "truncated")}
    means |= {"dropped": scored.columns["dropped"], "advantage_rms": table.advantages**2}
    metrics: dict[str, float] = {}
    everything = {"": torch.ones_like(table.task_ids, dtype=torch.bool)}
    for suffix, rows in (everything | {f"/{name}": table.task_ids == k for k, name in enumerate(tasks)}).items():
        if not rows.any():
            continue
        for name, values in means.items():
            metrics[f"rollout/{name}{suffix}"] = float(values[rows].mean())
        metrics[f"rollout/advantage_rms{suffix}"] **= 0.5
        tokens = first["length"][rows].sum()
        metrics[f"rollout/entropy{suffix}"] = float(first["entropy"][rows].sum() / tokens)
        metrics[f"rollout/nll{suffix}"] = float(-first["logprobs"][rows].sum() / tokens)
    return metrics
