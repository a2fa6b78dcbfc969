"""Figures of a benchmark: its own, the fractions at more thresholds, and the mean of each subset."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lit_g2rpo.evaluation.benchmark import Benchmark


def benchmark_figures(
    benchmark: Benchmark, values: Sequence[float | None], rows: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Average the values of a benchmark's rule.

    Args:
        benchmark: the benchmark.
        values: the rule's value for each row, ``N``.
        rows: the data rows, ``N``, with the columns of the benchmark's subsets and questions.

    Returns:
        Mean of each figure that a row had; for a benchmark with subsets also the mean over those present; for a
        circular one the fraction of questions that are right under every rotation of their options, and that of rows.
    """
    scores = [benchmark.score(value) for value in values]
    if benchmark.circular is not None:
        rotations = defaultdict(list)
        for score, row in zip(scores, rows, strict=True):
            rotations[str(row[benchmark.circular])].append(score)
        return {benchmark.metric: fmean(map(min, rotations.values())), "vanilla accuracy": fmean(scores)}
    found = defaultdict(list, {benchmark.metric: scores})
    if benchmark.hit_at is not None:
        for at in benchmark.recalls:
            found[f"recall@{at}"] = [float((value or 0.0) >= at) for value in values]
        found["mean IoU"] = [value or 0.0 for value in values]
    for column in benchmark.subsets:
        for score, row in zip(scores, rows, strict=True):
            found[row[column]].append(score)
    figures = {name: fmean(own) for name, own in found.items() if own}
    for column, known in benchmark.subsets.items():
        figures[f"mean over {column}"] = fmean([figures[value] for value in known if value in figures] or [0.0])
    return figures
