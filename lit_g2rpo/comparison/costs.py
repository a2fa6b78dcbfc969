"""The cost of a run in sampled tokens and seconds, in total and to reach an accuracy."""

from dataclasses import dataclass

import numpy as np

from lit_g2rpo.comparison.runs import Array, Curves

SECONDS = ("perf/rollout_seconds", "perf/score_seconds", "perf/logprobs_seconds", "perf/update_seconds")
"""Consecutive parts of a rollout, without validation and checkpoints."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost up to some point of a run.

    Args:
        rollouts: rollouts done.
        tokens: completion tokens sampled for training, on all ranks; None if not logged.
        seconds: time spent on sampling, scoring and learning; None if not logged.
    """

    rollouts: int
    tokens: float | None
    seconds: float | None


def cost(curves: Curves) -> Cost:
    """Compute the total cost of a run."""
    return _spent(curves, len(curves.rollouts) - 1)


def cost_to(curves: Curves, metric: str, target: float) -> Cost | None:
    """Compute the cost of a run until a metric first reached its target; None if it never did."""
    values = curves.metrics.get(metric)
    reached = np.flatnonzero(values >= target) if values is not None else np.array([], dtype=np.int64)
    return _spent(curves, int(reached[0])) if len(reached) else None


def wall_seconds(curves: Curves) -> float | None:
    """Measure the time from first to last point, including validation, checkpoints and the pauses of a resumed run."""
    times = curves.times[~np.isnan(curves.times)]
    return float(times[-1] - times[0]) if len(times) else None


def _spent(curves: Curves, point: int) -> Cost:
    metrics = curves.metrics
    tokens, seconds = None, None
    if "perf/rollout_seconds" in metrics and "perf/tokens_per_second" in metrics:
        tokens = _total(curves, metrics["perf/rollout_seconds"] * metrics["perf/tokens_per_second"], point)
        parts = [np.nan_to_num(metrics[name]) for name in SECONDS if name in metrics]
        logged = ~np.isnan(metrics["perf/rollout_seconds"])
        seconds = _total(curves, np.where(logged, np.sum(parts, axis=0), np.nan), point)
    return Cost(int(curves.rollouts[point]), tokens, seconds)


def _total(curves: Curves, values: Array, point: int) -> float:
    """Sum the cost of each rollout up to a point; if only every k-th is logged, it stands for k."""
    logged = np.flatnonzero(~np.isnan(values))
    rollouts = curves.rollouts[logged]
    every = int(np.diff(rollouts).min()) if len(rollouts) > 1 else 1
    weights = np.diff(rollouts, prepend=rollouts[:1] - every)
    return float((weights * values[logged])[logged <= point].sum())
