"""Benchmark figures as sums and counts, which add up over ranks."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_g2rpo.evaluation.benchmarks import Benchmark


class BenchmarkMetric(Metric):
    """Figures of a benchmark: its own, the shares at further thresholds, and the mean of each subset.

    Args:
        benchmark: the benchmark; not a circular one.
        **kwargs: arguments of ``torchmetrics.Metric``.

    Attributes:
        sums: sum of each figure, float64.
        counts: rows that each figure averages.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor
    counts: Tensor

    def __init__(self, benchmark: Benchmark, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert benchmark.circular is None, "rotations of a question need CircularAccuracy"
        self.benchmark = benchmark
        self.names = [benchmark.metric]
        if benchmark.hit_at is not None:
            self.names += [*(f"recall@{threshold}" for threshold in benchmark.recalls), "mean IoU"]
        self.names += [value for known in benchmark.subsets.values() for value in known]
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float64), "sum")

    def update(self, values: Sequence[float | None], rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows.

        Args:
            values: what the benchmark's rule gave, ``N``.
            rows: the data rows, ``N``, with the columns of the benchmark's subsets.
        """
        benchmark = self.benchmark
        for value, row in zip(values, rows, strict=True):
            score = benchmark.score(value)
            figures = {benchmark.metric: score}
            if benchmark.hit_at is not None:
                figures |= {f"recall@{at}": float((value or 0.0) >= at) for at in benchmark.recalls}
                figures["mean IoU"] = value or 0.0
            figures |= {row[column]: score for column in benchmark.subsets}
            for name, figure in figures.items():
                self.sums[self.names.index(name)] += figure
                self.counts[self.names.index(name)] += 1

    def compute(self) -> dict[str, Tensor]:
        """Average.

        Returns:
            Mean of each figure that a row had, and for a benchmark with subsets the mean over those present.
        """
        known = [(name, self.sums[i] / self.counts[i]) for i, name in enumerate(self.names) if self.counts[i]]
        figures = dict(known)
        for column, values in self.benchmark.subsets.items():
            means = [figures[value] for value in values if value in figures]
            figures[f"mean over {column}"] = torch.stack(means).mean() if means else torch.tensor(0.0)
        return figures


class CircularAccuracy(Metric):
    """Share of the questions that are right under every rotation of their options.

    A question's rows may lie on different ranks, so that no sum over rows will do: the state is one number and one key
    per row.

    Args:
        benchmark: the circular benchmark.
        **kwargs: arguments of ``torchmetrics.Metric``.

    Attributes:
        keys: key of the question of each row.
        scores: score of each row.
    """

    full_state_update = False
    higher_is_better = True
    keys: list[Tensor]
    scores: list[Tensor]

    def __init__(self, benchmark: Benchmark, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert benchmark.circular is not None
        self.benchmark, self.column = benchmark, benchmark.circular
        self.add_state("keys", [], "cat")
        self.add_state("scores", [], "cat")

    def update(self, values: Sequence[float | None], rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows.

        Args:
            values: what the benchmark's rule gave, ``N``.
            rows: the data rows, ``N``, with the column that names the question.
        """
        digests = [blake2b(str(row[self.column]).encode(), digest_size=8).digest() for row in rows]
        keys = [int.from_bytes(digest, "big", signed=True) for digest in digests]
        self.keys.append(torch.tensor(keys, dtype=torch.int64, device=self.device))
        scores = [self.benchmark.score(value) for value in values]
        self.scores.append(torch.tensor(scores, dtype=torch.float64, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Average.

        Returns:
            The circular accuracy, and the accuracy of rows.
        """
        keys, scores = _whole(self.keys), _whole(self.scores)
        questions, place = torch.unique(keys, return_inverse=True)
        worst = torch.ones(len(questions), dtype=scores.dtype, device=scores.device)
        worst = worst.scatter_reduce(0, place, scores, "amin")
        return {self.benchmark.metric: worst.mean(), "vanilla accuracy": scores.mean()}


def _whole(state: list[Tensor] | Tensor) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state)


def metric_of(benchmark: Benchmark) -> BenchmarkMetric | CircularAccuracy:
    """Make the metric that a benchmark needs."""
    return CircularAccuracy(benchmark) if benchmark.circular else BenchmarkMetric(benchmark)
