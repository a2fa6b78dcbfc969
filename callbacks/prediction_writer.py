"""Write what the policy answered, row by row and as figures per task."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table

from lit_g2rpo.callbacks.handles import handles, per_task, run_folder

FIGURES = ("accuracy", "format", "length", "truncated")


class PredictionWriter(L.Callback):
    """Writes ``predictions.jsonl`` for test and predict, ``metrics.json`` for test, and prints the figures per task.

    A batch's output is a list of rows with the keys ``index`` (place in the dataset), ``id``, ``task``, ``prompt``,
    ``completion``, ``answer``, ``gold``, ``accuracy``, ``format``, ``length`` and ``truncated``. The file has the order
    of the dataset, and every row once, also where samplers repeat rows to give all ranks the same number. The ranks
    write parts that the first one merges, so they must share the folder of the run.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._part: TextIO | None = None

    def _open(self, trainer: L.Trainer) -> None:
        self._folder = run_folder(trainer)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._part = self._part_path(trainer.global_rank).open("w", encoding="utf-8")

    def _part_path(self, rank: int) -> Path:
        return self._folder / f".predictions.{rank}.part"

    def _write(self, rows: Any) -> None:
        assert self._part is not None
        for row in rows:
            self._part.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _merge(self, trainer: L.Trainer) -> list[dict[str, Any]]:
        assert self._part is not None
        self._part.close()
        self._part = None
        trainer.strategy.barrier()
        rows: list[dict[str, Any]] = []
        if trainer.is_global_zero:
            parts = [self._part_path(rank) for rank in range(trainer.world_size)]
            by_index: dict[int, dict[str, Any]] = {}
            for part in parts:
                with part.open(encoding="utf-8") as lines:
                    for row in map(json.loads, lines):
                        by_index.setdefault(row["index"], row)
            rows = [by_index[index] for index in sorted(by_index)]
            replace(
                self._folder / "predictions.jsonl",
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            )
            for part in parts:
                part.unlink()
        return rows

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open this rank's part."""
        self._open(trainer)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Write the rows of a batch."""
        self._write(outputs)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the parts, write the figures and print them."""
        rows = self._merge(trainer)
        if trainer.is_global_zero:
            metrics = summarize(rows)
            replace(self._folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
            show(metrics)
            show_path("metrics", self._folder / "metrics.json")
            show_path("predictions", self._folder / "predictions.jsonl")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open this rank's part."""
        self._open(trainer)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Write the rows of a batch."""
        self._write(outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the parts and say where they are."""
        self._merge(trainer)
        if trainer.is_global_zero:
            show_path("predictions", self._folder / "predictions.jsonl")

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the figures per task of the validate command."""
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        sizes = handles(pl_module).validation_sizes
        figures = {name: per_task(trainer.callback_metrics, f"val/{name}") for name in FIGURES}
        tasks = {
            task: {"n": sizes.get(task), **{name: figures[name].get(task) for name in FIGURES}}
            for task in figures["accuracy"]
        }
        show({"n": sum(sizes.values()), "tasks": tasks, **mean_over_tasks(tasks.values())})

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave no unfinished part behind."""
        if self._part is not None:
            self._part.close()
            self._part = None
            self._part_path(trainer.global_rank).unlink(missing_ok=True)


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Average rows per task, and tasks into a mean that counts every task alike.

    Args:
        rows: rows of predictions.

    Returns:
        ``n``, the mean of each figure over the tasks, and under ``tasks`` the same of each task; a figure that no row
        has is None.
    """
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    tasks = {
        task: {"n": len(members), **{name: mean(row.get(name) for row in members) for name in FIGURES}}
        for task, members in sorted(by_task.items())
    }
    return {"n": len(rows), **mean_over_tasks(tasks.values()), "tasks": tasks}


def mean(values: Iterable[float | None]) -> float | None:
    """Average the values that are there; None if there is none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_over_tasks(tasks: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """Average each figure over the tasks, every task alike."""
    members = list(tasks)
    return {name: mean(task[name] for task in members) for name in FIGURES}


def show(metrics: dict[str, Any]) -> None:
    """Print figures per task, with the mean in the last row.

    Args:
        metrics: figures as ``summarize`` returns them.
    """

    def cells(values: dict[str, Any]) -> list[str]:
        formats = {"accuracy": ".3f", "format": ".3f", "length": ".1f", "truncated": ".3f"}
        texts = ["" if values[name] is None else format(values[name], formats[name]) for name in FIGURES]
        return ["" if values["n"] is None else str(values["n"]), *texts]

    table = Table(box=box.SIMPLE, show_footer=True)
    table.add_column("task", footer="mean")
    for name, footer in zip(("rows", *FIGURES), cells(metrics), strict=True):
        table.add_column(name, justify="right", footer=footer)
    for task, values in metrics["tasks"].items():
        table.add_row(task, *cells(values))
    Console().print(table)


def show_path(name: str, path: Path) -> None:
    """Print where a file is, unwrapped so that it can be copied."""
    Console().print(f"{name}: {path}", soft_wrap=True, markup=False, highlight=False)


def replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: the file.
        text: its content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
