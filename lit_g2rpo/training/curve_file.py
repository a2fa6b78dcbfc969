"""The curves of a run in a file, whatever its loggers: one line per rollout, each a JSON object."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_g2rpo.files import write_text

CURVES = "curves.jsonl"
"""Name of the file in a run's folder."""


def append_point(path: Path, rollout: int, values: Mapping[str, float]) -> None:
    """Append a point, with the wall clock in seconds as ``time``.

    Args:
        path: the file, created if necessary.
        rollout: rollouts done so far.
        values: value by metric.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"rollout": rollout, "time": round(time.time(), 3), **values}) + "\n")


def read_points(path: Path) -> list[dict[str, Any]]:
    """Read the points in order of rollout, merging those of the same rollout; stop at a line that is cut short.

    Args:
        path: the file; a missing one holds none.
    """
    return scan_points(path)[0]


def scan_points(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Read the points up to the first line that is not one.

    Args:
        path: the file; a missing one holds none.

    Returns:
        The points in order of rollout, merging those of the same rollout, and the number of that line, from 1; None if
        there is no such line, except a last one that a running or killed run has not finished.
    """
    points: dict[int, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    broken = None
    for number, line in enumerate(lines, 1):
        try:
            point = json.loads(line)
            points.setdefault(int(point["rollout"]), {}).update(point)
        except (ValueError, KeyError, TypeError, OverflowError):
            broken = number if line.endswith("\n") else None
            break
    return [points[rollout] for rollout in sorted(points)], broken


def forget_points(path: Path, rollout: int) -> dict[int, frozenset[str]]:
    """Remove the points after a rollout, which a killed run wrote and the resumed run repeats.

    Args:
        path: the file; it may be missing.
        rollout: rollouts done so far; -1 removes all points.

    Returns:
        Names of the metrics of each removed point, by rollout.
    """
    points = read_points(path)
    if path.exists():
        kept = [point for point in points if point["rollout"] <= rollout]
        write_text(path, "".join(json.dumps(point) + "\n" for point in kept))
    later = [point for point in points if point["rollout"] > rollout]
    return {point["rollout"]: frozenset(point) - {"rollout", "time"} for point in later}
