"""Figures of advantages: do they follow a standard normal, and does every task contribute equally?"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_g2rpo.callbacks.plots.figures import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL_MEAN_ABS = math.sqrt(2 / math.pi)
"""Mean absolute value of a standard normal."""


def quantile_figure(advantages: dict[str, Tensor]) -> "Figure":
    """Plot advantages against the quantiles of N(0, 1): points on the diagonal match it, steps are ties.

    Args:
        advantages: advantages of the completions that count, by panel name, ``[N]`` each, ``N >= 1``.
    """
    figure, axes_of = panels(
        list(advantages),
        "Advantages against N(0, 1), by problem type",
        "grey line: N(0, 1); flat steps are ties; a flatter slope than the line's pulls less",
    )
    for name, axes in axes_of.items():
        values = advantages[name].double().sort().values
        ranks = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
        expected = torch.special.ndtri(ranks)
        reach = max(float(expected.abs().max()), float(values.abs().max()), 1.0) * 1.1
        axes.plot([-reach, reach], [-reach, reach], color="0.5", linewidth=1)
        axes.plot(expected.numpy(), values.numpy(), ".", markersize=4, color="tab:blue")
        axes.text(
            0.04, 0.95, f"{len(values)} completions\nvariance {float(values.var(correction=0)):.2f}",
            transform=axes.transAxes, va="top", fontsize=8,
        )  # fmt: skip
        axes.set_xlabel("quantile of N(0, 1)", fontsize=8)
        axes.set_ylabel("advantage", fontsize=8)
    return figure


def pull_figure(mean_abs: dict[str, float], gradients: dict[str, float], tokens: dict[str, float]) -> "Figure":
    """Plot side by side the size of each task's advantages and its share of the gradient.

    Args:
        mean_abs: mean absolute advantage by task.
        gradients: share of the gradient norm by task, summing to 1; empty if it was not measured.
        tokens: share of the completion tokens, for the same tasks.
    """
    size, share = "Size of advantages", "Share of the gradient norm"
    note = "all bars at the dashed line: every task pulls equally; diamond: the task's share of tokens"
    titles = [size, share] if gradients else [size]
    figure, axes_of = panels(titles, "Does every task pull equally?", note, left=2.2)
    tasks = sorted(mean_abs.keys() | gradients.keys())[::-1]
    bars(axes_of[size], tasks, mean_abs, NORMAL_MEAN_ABS, "mean |advantage|")
    if gradients:
        axes = axes_of[share]
        bars(axes, tasks, gradients, 1 / len(gradients), "share")
        places = [place for place, task in enumerate(tasks) if task in tokens]
        axes.plot([tokens[tasks[place]] for place in places], places, "D", color="black", markersize=4)
        axes.set_xlim(0, 1.25 * max(*gradients.values(), *tokens.values()))
    return figure


def bars(axes: "Axes", tasks: list[str], values: dict[str, float], mark: float, unit: str) -> None:
    """Draw a horizontal bar per task, from the bottom, and a dashed line at a reference mark."""
    axes.barh(range(len(tasks)), [values.get(task, 0.0) for task in tasks], color="tab:blue", height=0.6)
    for place, task in enumerate(tasks):
        text = f" {values[task]:.2f}" if task in values else " not in this rollout"
        axes.text(values.get(task, 0.0), place, text, va="center", fontsize=8)
    axes.axvline(mark, color="tab:red", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.25 * max(mark, *values.values()))
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.set_xlabel(unit, fontsize=8)
