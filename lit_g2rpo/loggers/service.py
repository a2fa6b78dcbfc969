"""Base of loggers for online services: the run's folder, its id in the service, and no duplicate points."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import write_text
from lit_g2rpo.loggers.run_logger import RunLogger, ShownGroup

SCORES = ("reward", "advantage", "length", "truncated", "valid", "error")
"""Columns of a table of completions, besides prompt, gold answer and text."""


class ServiceLogger(RunLogger):
    """A logger of a service that cannot forget points.

    Lightning keeps the files of a run in the first logger's ``save_dir``, and its checkpoints below ``name`` and
    ``version`` there. Here ``save_dir`` is the folder of the run, and the other two are empty.

    Args:
        package: the service's client package, and the extra that installs it.
        save_dir: folder of all runs.
        name: name of the experiment; None for none.
        version: number, or name, of the run's folder; None for the next number.

    Raises:
        UserError: if the package is not installed.
    """

    def __init__(self, package: str, save_dir: str, name: str | None, version: int | str | None) -> None:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"trainer.logger is {type(self).__name__}, which needs the package {package}: "
                f'pip install "lit_g2rpo[{package}]"'
            )
        super().__init__()
        self._package = package
        self._place = CSVLogger(save_dir, name=name, version=version)

    @property
    @override
    def place(self) -> CSVLogger:
        return self._place

    @property
    @override
    def log_dir(self) -> str:
        return self._place.log_dir

    @property
    @override
    def save_dir(self) -> str:
        return self._place.log_dir

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    def title(self) -> str:
        """Name of the run for people, such as ``g2rpo/version_0``."""
        folder = Path(self.log_dir)
        return f"{folder.parent.name}/{folder.name}"

    def fresh(self, metrics: Mapping[str, float], rollout: int) -> dict[str, float]:
        """Remove points that an earlier part of the run has sent."""
        sent = self.repeated.get(rollout, frozenset())
        return {name: value for name, value in metrics.items() if name not in sent}

    @property
    def _identity_file(self) -> Path:
        return Path(self.log_dir) / f"{self._package}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """Id of the run in the service; empty if the service does not know the run yet."""
        path = self._identity_file
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def keep_identity(self, identity: Mapping[str, str]) -> None:
        """Save the run's id in the service for when the run is resumed."""
        write_text(self._identity_file, json.dumps(identity) + "\n")

    def files(self) -> list[Path]:
        """List the files of records, curves, predictions and metrics to upload to the service."""
        files = sorted(path for path in Path(self.log_dir).iterdir() if path.suffix in (".yaml", ".json", ".jsonl"))
        return [path for path in files if path != self._identity_file]


def completion_rows(group: ShownGroup) -> list[dict[str, Any]]:
    """Lay out a group as a table with one row per completion."""
    record = group.record
    prompt = {"task": record["task"], "id": record["id"], "prompt": record["prompt"], "gold": record["gold"]}
    return [
        {**prompt, "completion": completion["text"], **{name: completion[name] for name in SCORES}}
        for completion in record["completions"]
    ]
