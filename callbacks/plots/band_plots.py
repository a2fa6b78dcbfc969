"""Length and entropy of each task over the run, with their bands, in one figure each."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
from typing_extensions import override

from lit_g2rpo.callbacks.logged import metric, run_loggers
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.callbacks.plots.figures import panels, pixels
from lit_g2rpo.callbacks.watch import RolloutWatch, present_tasks
from lit_g2rpo.errors import UserError
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.run import handles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 2000
"""Number of points of a curve above which every second one is dropped."""

LENGTH, ENTROPY = slice(1, 6), slice(6, 9)
"""Columns of a point: rollout; mean length and the four thresholds; entropy with its low and high bound."""


class BandPlots(Observer):
    """Draw ``bands/length`` and ``bands/entropy``: a panel per task, the band shaded as it was at the time.

    All tasks share a figure: a class seldom has more than two tasks, and a dozen panels, three per row, stay readable.

    Points are means over the completions (tokens) of all ranks; the entropy is the one that the objective shapes. The
    curves are in the checkpoint, so a resumed run continues them.

    Args:
        every_rollouts: interval between figures, rollouts; the last rollout of a run always has one.

    Raises:
        UserError: if ``every_rollouts`` is below 1.
    """

    def __init__(self, every_rollouts: int = 50) -> None:
        if every_rollouts < 1:
            raise UserError(f"BandPlots.every_rollouts is {every_rollouts}; it must be at least 1 rollout")
        super().__init__()
        self.every_rollouts = every_rollouts
        self._watch = RolloutWatch()
        self._bands: dict[str, list[float]] = {}
        self._history: dict[str, list[list[float]]] = {}
        self._drawn = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._watch.start(handles(pl_module))

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # the bands that score the rollout, before other callbacks move them
        if batch[1] == 0:
            self._bands = {name: thresholds(task) for name, task in handles(pl_module).tasks.items()}

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = handles(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None:
            return
        source = "rollout/nll" if run.objective.entropy == "sampled" else "rollout/entropy"
        present = present_tasks(run, rollout)
        for name in present & self._bands.keys():
            bands = self._bands[name]
            length, entropy = (value_of(trainer, f"{what}/{name}") for what in ("rollout/length", source))
            curve = self._history.setdefault(name, [])
            curve.append([float(run.rollout_index), length, *bands[:4], entropy, *bands[4:]])
            if len(curve) > POINTS:
                self._history[name] = curve[::-2][::-1]
        if run.rollout_index % self.every_rollouts == 0:
            self._draw(trainer, run.rollout_index)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, handles(pl_module).rollout_index)

    def _draw(self, trainer: L.Trainer, rollout: int) -> None:
        loggers = run_loggers(trainer)
        if not loggers or not self._history or rollout == self._drawn:
            return
        self._drawn = rollout
        curves = {name: self._history[name] for name in sorted(self._history)}
        for name, figure in {"length": length_figure(curves), "entropy": entropy_figure(curves)}.items():
            drawn = pixels(figure)
            for logger in loggers:
                logger.show_image(f"bands/{name}", drawn, rollout)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": {name: [list(point) for point in curve] for name, curve in self._history.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history = {name: [list(point) for point in curve] for name, curve in state_dict["history"].items()}


def thresholds(task: Task) -> list[float]:
    """List a task's four length thresholds, tokens, and two entropy thresholds, nats; NaN for missing ones."""
    length, entropy = task.length, task.entropy
    four = [math.nan] * 4 if length is None else [length.minimum, length.low, length.high, length.maximum]
    return [*four, *([math.nan] * 2 if entropy is None else [entropy.low, entropy.high])]


def value_of(trainer: L.Trainer, name: str) -> float:
    """Read a logged metric; NaN if it was never logged."""
    value = metric(trainer, name)
    return math.nan if value is None else value


def length_figure(curves: dict[str, list[list[float]]]) -> "Figure":
    """Plot mean completion length by task; the plateau of the length reward is dark, its ramps are light.

    Args:
        curves: points by task, see `LENGTH`.
    """
    note = "mean of each rollout; dark: full length reward, light: part of it; red: mean outside the dark band"
    figure, axes_of = panels(list(curves), "Completion length and its band, by task", note)
    for name, axes in axes_of.items():
        rollouts, (length, minimum, low, high, maximum) = columns(curves[name], LENGTH)
        axes.fill_between(rollouts, minimum, maximum, color="tab:green", alpha=0.12, linewidth=0)
        axes.fill_between(rollouts, low, high, color="tab:green", alpha=0.25, linewidth=0)
        draw_curve(axes, rollouts, length, low, high, "tokens")
    return figure


def entropy_figure(curves: dict[str, list[list[float]]]) -> "Figure":
    """Plot mean token entropy by task, the band shaded.

    Args:
        curves: points by task, see `ENTROPY`.
    """
    note = "mean of each rollout over its tokens; green: the band; red: outside the band"
    figure, axes_of = panels(list(curves), "Token entropy and its band, by task", note)
    for name, axes in axes_of.items():
        rollouts, (entropy, low, high) = columns(curves[name], ENTROPY)
        axes.fill_between(rollouts, low, high, color="tab:green", alpha=0.25, linewidth=0)
        draw_curve(axes, rollouts, entropy, low, high, "nats")
    return figure


def columns(curve: list[list[float]], which: slice) -> tuple[list[float], list[list[float]]]:
    """Split points into the rollouts of a curve and the requested columns."""
    rollouts, *values = (list(column) for column in zip(*curve, strict=True))
    return rollouts, values[which.start - 1 : which.stop - 1]


def draw_curve(
    axes: "Axes", rollouts: list[float], values: list[float], low: list[float], high: list[float], unit: str
) -> None:
    """Draw a curve, with red points where it is outside its band, without letting a distant bound flatten it.

    Args:
        low: lower bound of the band at each point; NaN for none.
        high: upper bound.
    """
    axes.plot(rollouts, values, color="tab:blue", linewidth=1.2, marker="." if len(rollouts) < 60 else "")
    points = zip(rollouts, values, low, high, strict=True)
    outside = [(x, y) for x, y, bottom, top in points if y < bottom or y > top]
    if outside:
        axes.plot(*zip(*outside, strict=True), ".", color="tab:red")
    seen = [value for value in values if math.isfinite(value)]
    bounds = [value for value in (low[-1], high[-1]) if math.isfinite(value)]
    largest = max(seen, default=1.0)
    top = max([largest, *(bound for bound in bounds if bound < 3 * largest)])
    axes.set_ylim(0, 1.15 * top or 1.0)
    if bounds:
        text = f"band now {low[-1]:.3g} to {high[-1]:.3g}"
        box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5}
        axes.text(0.98, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, bbox=box)
    axes.set_xlabel("rollout", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
