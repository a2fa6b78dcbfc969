"""Write the policy's answers as they arrive, row by row, and figures per task."""

import json
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from typing_extensions import override

from lit_g2rpo.callbacks.logged import per_task
from lit_g2rpo.callbacks.run_folder import run_folder
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.predictions import FILES, Row, append, begin, finish, unfinished
from lit_g2rpo.evaluation.report import Baseline, read_baseline, summarize
from lit_g2rpo.evaluation.rows import settings
from lit_g2rpo.evaluation.table import show
from lit_g2rpo.files import write_text
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.training.run import RunHandles, handles

VALIDATED = ("accuracy", "format", "length", "truncated")


class PredictionWriter(L.Callback):
    """Write a file of predictions for test and for predict, ``metrics.json`` for test, and print the figures per task.

    ``metrics.json`` names the file that it was computed from.

    A batch's output is a list of rows as created by ``evaluation.row``. The first rank writes the rows of all ranks as
    they arrive, and at the end sorts them in the order of the dataset, without duplicates. To continue a killed run,
    repeat the same command: rows that are already in the file are left out of the loader.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._path = Path()
        self._settings: dict[str, Any] = {}
        self._done: list[Row] = []
        self._baseline: Baseline | None = None

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage not in FILES:
            return
        run = handles(pl_module)
        self._settings, self._done = settings(run, stage), []
        baseline = run.evaluation.baseline
        # finding the folder is collective, so all ranks must call this
        self._path, problem = run_folder(trainer) / FILES[stage], ""
        if trainer.is_global_zero:
            try:
                self._baseline = (
                    read_baseline(baseline, run.evaluation.reading) if baseline and stage == "test" else None
                )
                self._done = self._complete(unfinished(self._path, self._settings), run, stage)
            except UserError as error:
                problem = str(error)
        # the other ranks may not see the file, and all ranks must leave out the same rows
        places = sorted({row["index"] for row in self._done})
        problem, places = trainer.strategy.broadcast((problem, places))
        if problem:
            raise UserError(problem)
        if (data := prompt_data(trainer)) is not None:
            data.done = frozenset(places)

    def _complete(self, rows: list[Row], run: RunHandles, stage: str) -> list[Row]:
        """Select the rows of an unfinished run that need not be repeated."""
        data = prompt_data(run.trainer)
        if not rows or data is None:
            return []
        dataset = data.test_dataset() if stage == "test" else data.predict_dataset()
        tasks = list(dataset.task_names())[: data.limit] if dataset is not None else []
        if any(row["index"] >= len(tasks) or row["task"] != tasks[row["index"]] for row in rows):
            raise UserError(f"{self._path} was begun on other data; delete that file to start anew")
        made: dict[int, set[int]] = {}
        for row in rows:
            made.setdefault(row["index"], set()).add(row["repeat"])
        done = {index for index, repeats in made.items() if len(repeats) == run.evaluation.repeats}
        if len(done) == len(tasks):
            # Lightning calls no hooks for an empty loader, so one row is repeated
            done.remove(max(done))
        return [row for row in rows if row["index"] in done]

    def _begin(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            if self._done:
                print(f"continuing: {len(self._done)} predictions are there already")
            self._file = begin(self._path, self._settings, self._done)

    def _write(self, trainer: L.Trainer, rows: list[Row]) -> None:
        for part in Ranks(trainer).gather_values(rows):
            if self._file is not None:
                append(self._file, part)

    def _finish(self) -> list[Row]:
        assert self._file is not None
        self._file.close()
        self._file = None
        return finish(self._path)

    @override
    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        self._write(trainer, outputs)

    @override
    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = summarize(self._finish(), self._baseline, handles(pl_module).evaluation.reading)
        path = self._path.with_name("metrics.json")
        record = metrics | {"predictions": self._path.name, "settings": self._settings}
        write_text(path, json.dumps(record, indent=2) + "\n")
        show(metrics)
        show_path("metrics", path)
        show_path("predictions", self._path)

    @override
    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer)

    @override
    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        self._write(trainer, outputs)

    @override
    @rank_zero_only
    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish()
        show_path("predictions", self._path)

    @override
    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.VALIDATING:
            return
        sizes = handles(pl_module).validation_sizes
        means = {name: trainer.callback_metrics.get(f"val/{name}") for name in VALIDATED}
        figures = {name: per_task(trainer.callback_metrics, f"val/{name}") for name in VALIDATED}
        tasks = {
            task: {"n": sizes.get(task), "score": score, **{name: figures[name].get(task) for name in VALIDATED[1:]}}
            for task, score in figures["accuracy"].items()
        }
        show({"n": sum(sizes.values()), "score": means["accuracy"], **means, "tasks": tasks})

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # keep the file, so that the next run can continue it
        if self._file is not None:
            self._file.close()
            self._file = None


def prompt_data(trainer: L.Trainer) -> PromptData | None:
    """Find the run's data; None if the loaders come from elsewhere, which never leave out rows."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, PromptData) else None


def show_path(name: str, path: Path) -> None:
    """Print the path of a file without wrapping, so that it can be copied."""
    Console().print(f"{name}: {path}", soft_wrap=True, markup=False, highlight=False)
