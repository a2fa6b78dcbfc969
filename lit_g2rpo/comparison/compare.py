"""A comparison of runs as one value: groups, metrics, costs, and notes for the reader."""

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from lit_g2rpo.comparison.costs import Cost, cost, cost_to, wall_seconds
from lit_g2rpo.comparison.groups import Group, form_groups
from lit_g2rpo.comparison.metrics import Figure, MetricComparison, compare_metric, telling
from lit_g2rpo.comparison.runs import read_run
from lit_g2rpo.comparison.statistics import Estimate, estimate
from lit_g2rpo.comparison.words import ranges
from lit_g2rpo.errors import UserError

HEADLINES = ("val/accuracy", "rollout/accuracy", "rollout/reward")
"""Metrics for the tables: the first one that any run has is used."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """The cost of a run.

    Args:
        total: its total cost.
        wall_seconds: time from its first point to its last.
        to_target: its cost to reach the target; None if it did not.
    """

    total: Cost
    wall_seconds: float | None
    to_target: Cost | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of runs.

    Args:
        groups: the groups of runs.
        baseline: index of the group that others are compared with.
        metric: the metric of the tables.
        target: value of the metric up to which costs are counted; None if the metric has no figures.
        metrics: every metric that any run has.
        costs: costs by index of the group, in the order of its runs.
        notes: what is wrong, left out or uneven, one line each.
    """

    groups: list[Group]
    baseline: int
    metric: str
    target: float | None
    metrics: dict[str, MetricComparison]
    costs: list[list[RunCost]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a comparison.

    Args:
        metric: the metric of the tables; None for validation accuracy, or the nearest substitute.
        target: value of the metric up to which costs are counted; None for the baseline's, to two decimals.
        at: rollout at which runs are compared, without shorter runs; None for `common_length`.
        baseline: number or name of the group that others are compared with; None for the first.
        ignore: patterns of keys that do not separate groups.
    """

    metric: str | None = None
    target: float | None = None
    at: int | None = None
    baseline: str | None = None
    ignore: tuple[str, ...] = ()


def compare(folders: Sequence[Path], options: Options) -> Comparison:
    """Compare runs.

    Args:
        folders: their folders, each once.
        options: options of the comparison.

    Raises:
        UserError: if no run can be read, or an option names something that does not exist.
    """
    read = [read_run(folder) for folder in folders]
    notes = [problem for _, problem in read if problem]
    runs = [run for run, _ in read if run is not None]
    if not runs:
        raise UserError(f"no run can be compared: {'; '.join(notes)}")
    groups, replaced = form_groups(runs, options.ignore)
    notes += replaced
    runs = [run for group in groups for run in group.runs.values()]
    names = sorted({name for run in runs for name in run.curves.metrics})
    if not names:
        raise UserError("no run can be compared: none has a metric with a finite value")
    metric = options.metric or next((name for name in HEADLINES if name in names), names[0])
    if metric not in names:
        near = difflib.get_close_matches(metric, names, n=3, cutoff=0.4) or names[:3]
        raise UserError(f"--metric {metric}: no run has it; runs have, among {len(names)}, {', '.join(near)}")
    baseline = _baseline(groups, options.baseline)
    limit = common_length(groups) if options.at is None else options.at
    short = [run for run in runs if run.rollouts < limit]
    if len(short) == len(runs):
        raise UserError(f"--at {limit}: no run has come so far; the longest has {max(r.rollouts for r in runs)}")
    left_out = frozenset(map(id, short))
    metrics = {name: compare_metric(name, groups, baseline, limit, left_out) for name in names}
    notes += _unevenness(groups, baseline, metrics[metric], metric, limit)
    target = (
        options.target
        if options.target is not None
        else _reached(metrics[metric].figures.get(telling(metric), []), baseline)
    )
    costs = [
        [
            RunCost(
                cost(run.curves),
                wall_seconds(run.curves),
                None if target is None else cost_to(run.curves, metric, target),
            )
            for run in group.runs.values()
        ]
        for group in groups
    ]
    return Comparison(groups, baseline, metric, target, metrics, costs, notes)


def to_target(costs: Sequence[RunCost]) -> tuple[int, dict[str, Estimate]]:
    """Average the cost for the runs of a group to reach the target.

    Returns:
        The number of runs that reached it, and estimates of ``rollouts``, ``tokens`` and ``seconds``; no estimates
        unless all runs did, since a mean over only the faster runs would mislead.
    """
    reached = [run.to_target for run in costs if run.to_target is not None]
    if len(reached) < len(costs):
        return len(reached), {}
    spent: dict[str, list[float]] = {
        "rollouts": [run.rollouts for run in reached],
        "tokens": [run.tokens for run in reached if run.tokens is not None],
        "seconds": [run.seconds for run in reached if run.seconds is not None],
    }
    return len(reached), {name: estimate(values) for name, values in spent.items() if len(values) == len(reached)}


def _baseline(groups: Sequence[Group], wanted: str | None) -> int:
    if wanted is None:
        return 0
    for place, group in enumerate(groups):
        if wanted in (str(group.number), group.name):
            return place
    known = ", ".join(f"{group.number} ({group.name})" for group in groups)
    raise UserError(f"--baseline {wanted}: no such group; the groups are {known}")


def _reached(figures: list[Figure], baseline: int) -> float | None:
    """Return the figure of the baseline, or of the first group after it that has one, rounded down to two decimals."""
    means = [figure.estimate.mean for figure in figures[baseline:] + figures[:baseline] if figure.estimate]
    return math.floor(means[0] * 100) / 100 if means else None


def common_length(groups: Sequence[Group]) -> int:
    """Find the rollout that at least half of the groups have reached, each with at least half of its runs."""
    return median_low([median_low([run.rollouts for run in group.runs.values()]) for group in groups])


def _unevenness(
    groups: Sequence[Group], baseline: int, compared: MetricComparison, metric: str, limit: int
) -> Iterator[str]:
    """Describe what weakens a comparison."""
    runs = [run for group in groups for run in group.runs.values()]
    if short := [f"{run.folder} ({run.rollouts})" for run in runs if run.rollouts < limit]:
        yield f"not yet at rollout {limit}, so in the curves alone: {', '.join(short)}"
    if limit < (longest := max(run.rollouts for run in runs)):
        yield f"figures are those up to rollout {limit}; the longest run has {longest}: --at {longest}"
    if compared.common is None:
        yield f"{metric} has no rollout that all runs share, so it has no figures, only curves"
    elif not compared.figures["last"][baseline].by_seed:
        yield f"group {baseline + 1}, the baseline, has no figures, so no group has differences; give --baseline"
    if single := [group.number for group in groups if len(group.runs) == 1]:
        yield f"one seed, so no interval: group {ranges(single)}"
    for group in groups:
        shared = len(group.runs.keys() & groups[baseline].runs.keys())
        if shared < len(group.runs):
            yield f"group {group.number}: {shared} of {len(group.runs)} seeds pair with those of group {baseline + 1}"
    for what, key in (("versions of the code", "commit"), ("kinds of device", "device")):
        seen = Counter(str(run.versions[key]) for run in runs if run.versions.get(key))
        if len(seen) > 1:
            yield f"{len(seen)} {what}: " + ", ".join(
                f"{value[:14]} ({count} run{'s' if count > 1 else ''})" for value, count in seen.items()
            )
