"""A run as read from its folder: recipe, seed, curves, and versions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_g2rpo.training.curve_file import CURVES, scan_points
from lit_g2rpo.training.records import records

Array = NDArray[np.float64]
Seed = tuple[int | str, ...]
"""``seed_everything``, along with all other seeds of the recipe that are not derived from it."""
LARGEST = 1e100
"""Size from which a value counts as not finite: its square, in an interval, would overflow."""


@dataclass(frozen=True, slots=True)
class Curves:
    """The points of a run.

    Args:
        rollouts: rollouts done at each point, increasing, ``[T]`` int64.
        times: wall clock of each point, seconds, ``[T]``.
        metrics: value by metric, ``[T]`` each; NaN where a point has no finite value.
    """

    rollouts: NDArray[np.int64]
    times: Array
    metrics: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Run:
    """A run to compare.

    Args:
        folder: its folder, as given.
        recipe: value by dotted key, with unresolved references to other keys.
        raw: the recipe as read from the file.
        seed: its seed, by which it is paired with other runs.
        curves: its points.
        versions: its newest ``versions.json``; empty if there is none.
    """

    folder: Path
    recipe: Mapping[str, Any]
    raw: Mapping[str, Any]
    seed: Seed
    curves: Curves
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rollouts(self) -> int:
        """Number of rollouts done."""
        return int(self.curves.rollouts[-1])

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe with references resolved; unresolved if that fails."""
        try:
            return dict(flat(OmegaConf.to_container(OmegaConf.create(dict(self.raw)), resolve=True)))
        except OmegaConfBaseException:
            return dict(self.recipe)

    @property
    def planned(self) -> int | None:
        """Number of rollouts in the recipe; None if it does not say."""
        planned = self.recipe.get("schedule.rollouts")
        return planned if isinstance(planned, int) else None


def read_run(folder: Path) -> tuple[Run | None, str]:
    """Read a run, which may still be running.

    Returns:
        The run, or None if it cannot be compared, and one line on what is wrong with it, empty if nothing is.
    """
    found = records(folder)
    if not found:
        return None, f"{folder} is left out: it has no config.yaml, so nobody knows what it is a run of"
    path = found[-1]
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        recipe = dict(flat(raw))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        recipe = {}
    if not recipe:
        return None, f"{folder} is left out: {path.name} cannot be read as YAML"
    try:
        points, broken = scan_points(folder / CURVES)
    except OSError as error:
        return None, f"{folder} is left out: {CURVES} cannot be read ({error.strerror})"
    problem = f"line {broken} of {folder / CURVES} is damaged; that line and what follows it are left out"
    if not points:
        why = f"line {broken} of {CURVES} is damaged" if broken else f"{CURVES} holds no point yet"
        return None, f"{folder} is left out: {why if (folder / CURVES).exists() else f'it has no {CURVES}'}"
    return Run(folder, recipe, raw, seed_of(recipe), curves_of(points), _versions(folder)), problem if broken else ""


def curves_of(points: list[dict[str, Any]]) -> Curves:
    """Turn points into a column per metric.

    Args:
        points: points with ``rollout``, ``time`` and values by metric, in order of rollout.
    """
    names = dict.fromkeys(name for point in points for name in point)
    columns = {name: _column([point.get(name) for point in points]) for name in names}
    rollouts = columns.pop("rollout").astype(np.int64)
    times = columns.pop("time", np.full(len(points), np.nan))
    return Curves(rollouts, times, {name: values for name, values in columns.items() if not np.isnan(values).all()})


def _column(values: list[Any]) -> Array:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = [value if isinstance(value, int | float) and abs(value) < LARGEST else np.nan for value in values]
        column = np.array(numbers, dtype=np.float64)
    column[~(np.abs(column) < LARGEST)] = np.nan
    return column


def seed_of(recipe: Mapping[str, Any]) -> Seed:
    """Read the seeds of a run."""
    seed = recipe.get("seed_everything", "none")
    others = (
        f"{key}={value}"
        for key, value in sorted(recipe.items())
        if key.endswith(".seed") and value != seed and "${" not in str(value)
    )
    return (seed, *others)


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """List the leaves of a recipe by dotted key; items in a list of classes are named by their class."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "class_path" in part for part in value):
        named: dict[str, Any] = {}
        for part in value:
            name = str(part["class_path"]).rpartition(".")[2]
            named[name if name not in named else f"{name}.{len(named)}"] = part
        value = named
    if not isinstance(value, dict) or (key and not value):
        return [(key, value)] if key else []
    return [leaf for name, inner in value.items() for leaf in flat(inner, f"{key}.{name}".lstrip("."))]


def _versions(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(records(folder, "versions.json")[-1].read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
