"""Progress of a sweep's runs: a bar for each on a terminal, an occasional line in a log file."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from lit_g2rpo.cli.sweep.grid import SEED, Grid, short_keys
from lit_g2rpo.cli.sweep.runs import SweepRun
from lit_g2rpo.training.curve_file import CURVES

ACCURACY = "val/accuracy"


class CurveTail:
    """Read the points that a run adds to its curves.

    Args:
        path: the file, which may not exist yet, and which a resumed run shortens.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = 0

    def read(self) -> list[dict[str, Any]]:
        """Read the new complete lines."""
        points = []
        try:
            if self.path.stat().st_size < self._place:
                self._place = 0
            with self.path.open("rb") as file:
                file.seek(self._place)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._place += len(line)
                    points.append(json.loads(line))
        except (OSError, ValueError):
            # gone or damaged, which the run itself will report
            return points
        return points


class Progress:
    """Show the active runs.

    Args:
        runs: all runs of the sweep.
        ready: number of runs that are already finished.
    """

    def __init__(self, runs: list[SweepRun], ready: int) -> None:
        self.total, self.ready = len(runs), ready
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}"),
            console=Console(soft_wrap=True),
            disable=not sys.stdout.isatty(),
        )
        self._tasks: dict[str, Any] = {}
        self._tails: dict[str, CurveTail] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, run: SweepRun) -> None:
        """Record that a run starts or resumes."""
        self._tails[run.name] = CurveTail(run.folder / CURVES)
        self._started[run.name] = time.monotonic()
        self._tasks[run.name] = self._bars.add_task(run.name, total=run.rollouts, accuracy="")
        self._say(f"{run.name}: started, output in {run.log}")

    def look(self, run: SweepRun) -> None:
        """Show a run's progress since the last update."""
        for point in self._tails[run.name].read():
            task, rollout = self._tasks[run.name], point.get("rollout", 0)
            self._bars.update(task, completed=rollout)
            if ACCURACY in point:
                accuracy = f"accuracy {point[ACCURACY]:.3f}"
                self._bars.update(task, accuracy=accuracy)
                if self._bars.disable:
                    self._say(f"{run.name}: rollout {rollout} of {run.rollouts}, {accuracy}")

    def end(self, run: SweepRun, ending: str) -> None:
        """Record how a run ended."""
        self.look(run)
        self._bars.remove_task(self._tasks[run.name])
        self.ready += ending == "finished"
        minutes, seconds = divmod(round(time.monotonic() - self._started[run.name]), 60)
        self._say(f"{run.name}: {ending} after {minutes}:{seconds:02d} min ({self.ready} of {self.total} finished)")

    def _say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_runs(grid: Grid, runs: list[SweepRun], done: dict[str, int | None]) -> None:
    """Print the runs.

    Args:
        done: rollouts done by each run; None if it is new.
    """
    table = Table(box=None, pad_edge=False)
    keys = [one.key for one in grid.varied]
    seeded = [] if SEED in keys else ["seed"]
    for key in ["run", *short_keys(keys), *seeded, "state"]:
        table.add_column(key, overflow="fold")
    for run in runs:
        found = done[run.name]
        state = "new" if found is None else "finished" if found >= run.rollouts else f"resumes after rollout {found}"
        table.add_row(run.name, *run.values, *([str(run.seed)] if seeded else []), state)
    Console(markup=False).print(table)
