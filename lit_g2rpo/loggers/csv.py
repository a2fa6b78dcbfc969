"""Metrics as a table in a file."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lit_g2rpo.files import whole
from lit_g2rpo.loggers.run_logger import Repeated, RunLogger


class _Writer(ExperimentWriter):
    """Go on with the file of an earlier part of the run, which Lightning's own would remove."""

    @override
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.exists():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])


class CSV(RunLogger, CSVLogger):
    """Log to ``metrics.csv`` in the folder of the run; its column ``step`` counts rollouts.

    Training and validation after a rollout are a row each, and a cell is empty where a rollout lacks a metric.

    Args:
        save_dir: folder of all runs.
        name: name of the experiment; None for that of the recipe, and for none without one.
        version: number, or name, of the run's folder; None for the next number.
    """

    def __init__(self, save_dir: str = "runs", name: str | None = None, version: int | str | None = None) -> None:
        CSVLogger.__init__(self, save_dir, name=name, version=version)

    @property
    @override
    def place(self) -> CSVLogger:
        return self

    @property
    @override
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @override
    @rank_zero_only
    def forget(self, rollout: int, repeated: Repeated) -> None:
        super().forget(rollout, repeated)
        path = Path(self.experiment.metrics_file_path)
        if path.exists():
            with path.open(newline="") as file:
                table = csv.DictReader(file)
                rows = [row for row in table if int(row["step"]) <= rollout]
            with whole(path) as part, part.open("w", newline="") as file:
                writer = csv.DictWriter(file, table.fieldnames or [])
                writer.writeheader()
                writer.writerows(rows)

    @override
    def how_to_open(self, folder: Path) -> str:
        return f"metrics:     {folder / 'metrics.csv'}"
