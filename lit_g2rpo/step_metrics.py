"""Diagnostics of one optimizer step: token means over micro-batches and ranks, overall and per task."""

from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.distributed import sum_over_ranks
from lit_g2rpo.objectives.fields import TokenFields


class StepMetrics:
    """Running sums per task over the micro-batches of an optimizer step.

    Args:
        tasks: names of all tasks of the run.
    """

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.sums: dict[str, Tensor] = {}
        self.gaps: list[Tensor] = []

    def add(self, metrics: dict[str, Tensor], fields: TokenFields, on_policy: bool = False) -> None:
        """Add a micro-batch.

        Args:
            metrics: elementwise diagnostics, ``[M]`` each.
            fields: its loss fields.
            on_policy: True if the policy is still the one that sampled: what its log-probabilities then differ by is
                the gap between engine and trainer.
        """
        if on_policy:
            gap = (metrics["nll"] + fields.old_logprobs).abs()
            metrics = metrics | {"logprob_gap": gap}
            self.gaps.append(torch.cat([gap, gap.new_zeros(1)]).max())
        for name, values in (metrics | {"tokens": torch.ones_like(fields.weight)}).items():
            zeros = torch.zeros(len(self.tasks), dtype=torch.float64, device=values.device)
            # kept on the device: a copy to the host here would wait for it in every micro-batch
            self.sums[name] = self.sums.get(name, zeros) + zeros.index_add(0, fields.task_ids, values.double())

    def reduce(self, module: Any) -> dict[str, float]:
        """Add up over ranks and start afresh.

        Args:
            module: the LightningModule, whose strategy knows the ranks.

        Returns:
            ``train/<name>`` and ``train/<name>/<task>``, tasks without a token left out.
        """
        sums = dict(zip(self.sums, sum_over_ranks(module, torch.stack(list(self.sums.values()))), strict=True))
        self.sums = {}
        tokens = sums.pop("tokens")
        # Micro-batch losses hold what the trainer divides by again: the number of micro-batches and of ranks.
        loss = sums.pop("loss").sum() / (module.trainer.accumulate_grad_batches * module.trainer.world_size)
        metrics = {"train/loss": float(loss), "train/tokens": float(tokens.sum())}
        for name, values in sums.items():
            metrics[f"train/{name}"] = float(values.sum() / tokens.sum().clamp(min=1))
            metrics |= {
                f"train/{name}/{task}": float(values[k] / tokens[k]) for k, task in enumerate(self.tasks) if tokens[k]
            }
        if self.gaps:
            largest = torch.stack(self.gaps).max()
            reduced = module.trainer.strategy.reduce(largest, reduce_op="max")
            metrics["train/logprob_gap_max"] = float(reduced)
            self.gaps = []
        return metrics
