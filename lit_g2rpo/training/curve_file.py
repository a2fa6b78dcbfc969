"""The curves of a run as a file of its own: one JSON object per line and rollout, whatever the loggers are."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_g2rpo.files import write_text

CURVES = "curves.jsonl"
"""Name of the file in the folder of a run."""


def append_point(path: Path, rollout: int, values: Mapping[str, float]) -> None:
    """Append a point, with the wall clock in seconds as ``time``.

    Args:
        path: the file, which is made if need be.
        rollout: rollouts that are done.
        values: value by metric.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"rollout": rollout, "time": round(time.time(), 3), **values}) + "\n")


def read_points(path: Path) -> list[dict[str, Any]]:
    """Read the points in the order of their rollouts, several of one rollout joined; a line cut short ends them.

    Args:
        path: the file; a missing one holds none.
    """
    return scan_points(path)[0]


def scan_points(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Read the points up to the first line that is none.

    Args:
        path: the file; a missing one holds none.

    Returns:
        The points in the order of their rollouts, several of one rollout joined, and the number of that line, from 1.
        None if there is no such line but one that a running or killed run has not finished.
    """
    points: dict[int, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    broken = None
    for number, line in enumerate(lines, 1):
        try:
            point = json.loads(line)
            points.setdefault(int(point["rollout"]), {}).update(point)
        except (ValueError, KeyError, TypeError):
            broken = number if line.endswith("\n") else None
            break
    return [points[rollout] for rollout in sorted(points)], broken


def forget_points(path: Path, rollout: int) -> dict[int, frozenset[str]]:
    """Remove the points after a rollout, which a run that was killed wrote and a resumed one repeats.

    Args:
        path: the file; a missing one stays so.
        rollout: rollouts that are done; -1 removes all.

    Returns:
        Names of the metrics that each removed point had, by rollout.
    """
    points = read_points(path)
    if path.exists():
        kept = [point for point in points if point["rollout"] <= rollout]
        write_text(path, "".join(json.dumps(point) + "\n" for point in kept))
    later = [point for point in points if point["rollout"] > rollout]
    return {point["rollout"]: frozenset(point) - {"rollout", "time"} for point in later}
