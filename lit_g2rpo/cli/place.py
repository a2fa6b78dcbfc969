"""Where a run lies: the logger's arguments, which name its folder, or the trainer's folder where there is no logger."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_g2rpo.cli.checkpoints import run_folder_of, version_of


class Place:
    """Read and set the folder of a run, ``<save_dir>/<name>/version_<n>``, in the arguments of the first logger.

    Args:
        trainer: ``trainer`` as configured; its ``logger`` is a class with arguments, a list of them, or a flag.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, loggers = trainer, trainer["logger"]
        loggers = loggers if isinstance(loggers, list) else [loggers]
        self._all = [logger.get("init_args") if hasattr(logger, "get") else None for logger in loggers]
        self._arguments = self._all[0] if self._all else None

    def fill_names(self, name: str) -> None:
        """Give loggers without a name that of the experiment."""
        for arguments in self._all:
            if arguments is not None and arguments.get("name", "") is None:
                arguments["name"] = name

    @property
    def experiment(self) -> Path:
        """Folder that holds the runs of one name."""
        arguments = self._arguments
        if arguments is None or not arguments.get("save_dir"):
            return Path("runs")
        return Path(arguments["save_dir"]) / (arguments.get("name") or "")

    def run_of_configs(self, configs: Iterable[Any]) -> Path | None:
        """Find the one run that the configuration means; None if it may be any of the experiment.

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
        """Go on in the folder of the run that a checkpoint is from.

        Args:
            checkpoint: the checkpoint.
            run: the run's folder, wherever it lies now; None finds it in the experiment's.
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
        """Let a run lie in a folder.

        Args:
            run: the folder of the run.
        """
        run, arguments = Path(os.path.normpath(run)), self._arguments
        if arguments is None or "version" not in arguments:
            self._trainer["default_root_dir"] = str(run)
        else:
            arguments["save_dir"], arguments["name"], arguments["version"] = str(run.parent), "", run.name
