"""Metrics of a rollout and of an optimizer step, overall and per task."""

import torch
from torch import Tensor

from lit_g2rpo.experience import RolloutTable
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.training.table import Columns

COUNTS = ("rollout/reward_failures", "rollout/reward_timeouts", "rollout/reward_restarts")


def rollout_metrics(table: RolloutTable, usable: Tensor, first: Columns, tasks: list[str]) -> dict[str, float]:
    """Average over all completions of a rollout, overall and per task.

    Args:
        table: the groups to learn from.
        usable: False for groups that were dropped, ``[P]`` bool.
        first: columns of the groups drawn first, which show how good the policy is; replacement groups were selected
            for being neither all right nor all wrong.
        tasks: names of all tasks of the run.

    Returns:
        ``rollout/<name>`` and ``rollout/<name>/<task>``, except for tasks without a prompt.
    """
    means = {name: first[name] for name in ("length", "length_reward", "truncated")}
    means |= {"dropped": (~usable).double(), "advantage_rms": table.advantages**2}
    scored = first["scored"].bool()
    means["unscored"] = (~scored).double()
    metrics: dict[str, float] = {}
    everything = {"": torch.ones_like(table.task_ids, dtype=torch.bool)}
    for suffix, rows in (everything | {f"/{name}": table.task_ids == k for k, name in enumerate(tasks)}).items():
        if not rows.any():
            continue
        for name, values in means.items():
            metrics[f"rollout/{name}{suffix}"] = float(values[rows].mean())
        # only over completions with a score; without any, the metric is left out
        for name in ("reward", "accuracy", "format") if scored[rows].any() else ():
            metrics[f"rollout/{name}{suffix}"] = float(first[name][rows][scored[rows]].mean())
        metrics[f"rollout/advantage_rms{suffix}"] **= 0.5
        tokens = first["length"][rows].sum()
        metrics[f"rollout/entropy{suffix}"] = float(first["entropy"][rows].sum() / tokens)
        metrics[f"rollout/nll{suffix}"] = float(-first["logprobs"][rows].sum() / tokens)
    return metrics


def reward_counts(scorer: Scorer, ranks: Ranks) -> dict[str, float]:
    """Sum over ranks how often rewards failed, hit a limit, or had their process killed."""
    counts = ranks.sum(torch.tensor([scorer.failures, scorer.timeouts, scorer.restarts])).tolist()
    return dict(zip(COUNTS, map(float, counts), strict=True))


class StepMetrics:
    """Running sums per task over the micro-batches of an optimizer step.

    Args:
        tasks: names of all tasks of the run.
        ranks: the ranks to sum over.
        accumulate: micro-batches of the optimizer step.
    """

    def __init__(self, tasks: list[str], ranks: Ranks, accumulate: int) -> None:
        self.tasks, self.ranks, self.accumulate = tasks, ranks, accumulate
        self._added: list[tuple[dict[str, Tensor], TokenFields, bool]] = []

    def add(self, metrics: dict[str, Tensor], fields: TokenFields, on_policy: bool = False) -> None:
        """Add a micro-batch; nothing is computed before `reduce`, so the host does not wait for the device.

        Args:
            metrics: elementwise diagnostics, ``[M]`` each, or longer if followed by padding.
            fields: its loss fields.
            on_policy: True if the policy is still the one that sampled, so that any difference in log-probabilities is
                the gap between engine and trainer.
        """
        self._added.append((metrics, fields, on_policy))

    def reduce(self) -> dict[str, float]:
        """Sum over ranks and reset.

        Returns:
            ``train/<name>`` and ``train/<name>/<task>``, except for tasks without a token.
        """
        own, gaps = self._sums()
        self._added = []
        sums = dict(zip(own, self.ranks.sum(torch.stack(list(own.values()))), strict=True))
        tokens = sums.pop("tokens")
        # Micro-batch losses are scaled by the number of micro-batches and ranks, which the trainer divides by again.
        loss = sums.pop("loss").sum() / (self.accumulate * self.ranks.count)
        metrics = {"train/loss": float(loss), "train/tokens": float(tokens.sum())}
        for name, values in sums.items():
            metrics[f"train/{name}"] = float(values.sum() / tokens.sum().clamp(min=1))
            metrics |= {
                f"train/{name}/{task}": float(values[k] / tokens[k]) for k, task in enumerate(self.tasks) if tokens[k]
            }
        if gaps:
            metrics["train/logprob_gap_max"] = float(self.ranks.largest(torch.stack(gaps).max()))
        return metrics

    def _sums(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Sum per task, ``[K]`` each, and find the largest gap of each micro-batch under the policy that sampled."""
        sums: dict[str, Tensor] = {}
        gaps = []
        for metrics, fields, on_policy in self._added:
            # on the device of the loss fields, which is the host if shapes are fixed
            values = {name: v.to(fields.weight.device)[: len(fields.weight)] for name, v in metrics.items()}
            if on_policy:
                values["logprob_gap"] = (values["nll"] + fields.old_logprobs).abs()
                gaps.append(torch.cat([values["logprob_gap"], fields.weight.new_zeros(1)]).max())
            for name, value in (values | {"tokens": torch.ones_like(fields.weight)}).items():
                zeros = torch.zeros(len(self.tasks), dtype=torch.float64, device=value.device)
                sums[name] = sums.get(name, zeros) + zeros.index_add(0, fields.task_ids, value.double())
        return sums, gaps
