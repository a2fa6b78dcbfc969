"""The folder of a run, from the arguments of its logger, or from the trainer if there is no logger."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_g2rpo.cli.checkpoints import run_folder_of, version_of


class Place:
    """Read and set a run's folder, ``<save_dir>/<name>/version_<n>``, in the arguments of the first logger.

    Args:
        trainer: ``trainer`` as configured; its ``logger`` is a class with arguments, a list of them, or a flag.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, loggers = trainer, trainer["logger"]
        loggers = loggers if isinstance(loggers, list) else [loggers]
        self._all = [logger.get("init_args") if hasattr(logger, "get") else None for logger in loggers]
        self._arguments = self._all[0] if self._all else None

    def fill_names(self, name: str) -> None:
        """Give loggers without a name the name of the experiment."""
        for arguments in self._all:
            if arguments is not None and arguments.get("name", "") is None:
                arguments["name"] = name

    @property
    def experiment(self) -> Path:
        """Folder of all runs with this name."""
        arguments = self._arguments
        if arguments is None or not arguments.get("save_dir"):
            return Path("runs")
        return Path(arguments["save_dir"]) / (arguments.get("name") or "")

    def run_of_configs(self, configs: Iterable[Any]) -> Path | None:
        """Find the run that the config refers to; None if it may be any run of the experiment.

        Args:
            configs: the files that the command line names as ``--config``.
        """
        version = None if self._arguments is None else self._arguments.get("version")
        if version is not None:
            return self.experiment / (version if isinstance(version, str) else f"version_{version}")
        found = None
        for path in configs:
            absolute = Path(str(path.absolute if hasattr(path, "absolute") else path))
            found = run_folder_of(absolute, self.experiment) or found
        return found

    def go_on(self, checkpoint: Path, run: Path | None) -> None:
        """Continue in the folder of the run that a checkpoint is from.

        Args:
            checkpoint: the checkpoint.
            run: the run's folder, wherever it is now; None to find it in the experiment's folder.
        """
        arguments = self._arguments
        if run is not None:
            self.lie_in(run)
        elif (
            arguments is not None
            and arguments.get("version", "") is None
            and (found := run_folder_of(checkpoint, self.experiment))
        ):
            arguments["version"] = version_of(found)

    def lie_in(self, run: Path) -> None:
        """Set the folder of the run.

        Args:
            run: the folder of the run.
        """
        run, arguments = Path(os.path.normpath(run)), self._arguments
        if arguments is None or "version" not in arguments:
            self._trainer["default_root_dir"] = str(run)
        else:
            arguments["save_dir"], arguments["name"], arguments["version"] = str(run.parent), "", run.name
