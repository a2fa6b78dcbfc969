"""``compare.json``: the whole comparison for programs."""

from dataclasses import asdict
from typing import Any

import numpy as np

from lit_g2rpo.comparison.compare import Comparison, RunCost, to_target
from lit_g2rpo.comparison.groups import Group, show_seed
from lit_g2rpo.comparison.metrics import Figure, MetricComparison
from lit_g2rpo.comparison.runs import Run

DIGITS = 6
"""Significant digits of curves; figures keep all digits."""


def report(found: Comparison) -> dict[str, Any]:
    """Collect the content of ``compare.json``: plain values, with None for NaN."""
    return {
        "metric": found.metric,
        "target": found.target,
        "baseline": found.groups[found.baseline].name,
        "notes": found.notes,
        "differing_keys": {
            key: {group.name: group.values[key] for group in found.groups} for key in found.groups[0].values
        },
        "groups": [_group(group, costs) for group, costs in zip(found.groups, found.costs, strict=True)],
        "runs": [
            run_facts(run, cost) | {"group": group.name}
            for group, costs in zip(found.groups, found.costs, strict=True)
            for run, cost in zip(group.runs.values(), costs, strict=True)
        ],
        "metrics": {name: _metric(metric, found.groups) for name, metric in found.metrics.items()},
    }


def run_facts(run: Run, cost: RunCost) -> dict[str, Any]:
    """Describe a run and its cost."""
    return {
        "folder": str(run.folder),
        "seed": show_seed(run.seed),
        "planned_rollouts": run.planned,
        **asdict(cost.total),
        "wall_seconds": cost.wall_seconds,
        "to_target": None if cost.to_target is None else asdict(cost.to_target),
        "device": run.versions.get("device"),
        "ranks": run.versions.get("ranks"),
        "commit": run.versions.get("commit"),
    }


def rounded(values: Any, digits: int) -> list[float | None]:
    """Round to significant digits; return None for NaN."""
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(array))))
        # 0 and the smallest numbers cannot be scaled
        short = np.where(np.isfinite(scale), np.round(array * scale) / scale, array)
    return [None if value != value else value for value in short.tolist()]


def _group(group: Group, costs: list[RunCost]) -> dict[str, Any]:
    reached, spent = to_target(costs)
    return {
        "number": group.number,
        "name": group.name,
        "values": group.values,
        "seeds": [show_seed(seed) for seed in group.runs],
        "runs": [str(run.folder) for run in group.runs.values()],
        "reached_target": reached,
        "to_target": {name: asdict(value) for name, value in spent.items()},
    }


def _metric(metric: MetricComparison, groups: list[Group]) -> dict[str, Any]:
    return {
        "at": metric.common,
        "figures": {
            name: {group.name: _figure(figure) for group, figure in zip(groups, figures, strict=True)}
            for name, figures in metric.figures.items()
        },
        "curves": {
            "rollouts": metric.rollouts.tolist(),
            "groups": {
                group.name: {
                    "n": band.n.tolist(),
                    "mean": rounded(band.mean, DIGITS),
                    "half_width": rounded(band.half, DIGITS) if (band.n > 1).any() else None,
                }
                for group, band in zip(groups, metric.bands, strict=True)
                if band.n.any()
            },
        },
    }


def _figure(figure: Figure) -> dict[str, Any] | None:
    if figure.estimate is None:
        return None
    found: dict[str, Any] = asdict(figure.estimate)
    found["by_seed"] = {show_seed(seed): value for seed, value in figure.by_seed.items()}
    if difference := figure.difference:
        found["difference"] = {
            **asdict(difference.estimate),
            "by_seed": dict(zip(map(show_seed, difference.seeds), difference.differences, strict=True)),
            "p": difference.p,
            "exact": difference.exact,
        }
    return found
