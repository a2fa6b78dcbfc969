"""The folder of a run's files, its lock, and the command that continues the run."""

import errno
import fcntl
import os
import shlex
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import remove_scratch
from lit_g2rpo.hardware.aside import Aside
from lit_g2rpo.training.curve_file import CURVES
from lit_g2rpo.training.records import records
from lit_g2rpo.training.run import handles

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""Errors of file systems that do not support locks."""

GIVEN: dict[Path, Path] = {}
"""Folders that were made absolute, in the form given by the user."""

CALLS = ("log_metrics", "log_hyperparams", "log_graph", "after_save_checkpoint", "save", "finalize")
"""Methods that a trainer calls on a logger."""


class FolderInUse(UserError):
    """Another process is writing to the folder of this run."""


class RunFolder(L.Callback):
    """Keep the run's folder fixed, even if the working directory changes, and lock it for one writing process.

    The first rank holds the lock, which is released when its process ends for any reason. Failing loggers do not end
    the run.
    """

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        self._loggers: list[Aside] = []

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        anchor(trainer)
        folder, problem = run_folder(trainer), None
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            try:
                self._lock = locked(folder, TrainerFn(stage).value)
                if stage == "fit":
                    remove_scratch(folder)
                    handles(pl_module).curve_file = folder / CURVES
            except UserError as error:
                problem = error
        if problem := trainer.strategy.broadcast(problem):
            raise problem
        if not self._loggers:
            self._loggers = [spare(logger) for logger in trainer.loggers]

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._release()
        for aside in self._loggers:
            aside.report()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def anchor(trainer: L.Trainer) -> None:
    """Make the folders of a trainer and its loggers absolute, so that they do not move."""
    for holder in (trainer, *(getattr(logger, "place", logger) for logger in trainer.loggers)):
        for name in ("_default_root_dir", "_root_dir", "_save_dir"):
            folder = vars(holder).get(name)
            if isinstance(folder, str | os.PathLike) and "://" not in str(folder):
                place = os.path.abspath(os.path.expanduser(folder))
                if place == str(folder):
                    continue
                if isinstance(holder, TensorBoardLogger):
                    # a writer repeatedly opens its file by the given name
                    holder._experiment = None
                GIVEN[Path(place)] = Path(folder)
                setattr(holder, name, place)


def locked(folder: Path, stage: str) -> IO[str] | None:
    """Lock a run folder, which is created if necessary.

    Args:
        stage: stage of the run; a test may run in the folder of a training.

    Returns:
        An open file that holds the lock until it is closed; None if the file system does not support locks.

    Raises:
        FolderInUse: if another process holds the lock.
        UserError: if the folder cannot be written.
    """
    path = folder / f".{stage}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); give another trainer.logger.save_dir"
        ) from None
    try:
        # for this process only, so that forked processes do not keep the lock
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        if error.errno in NO_LOCKS:
            rank_zero_warn(f"{folder} lies on a file system without locks: see to it that no other run writes there")
            return None
        raise FolderInUse(
            f"{folder} is in use by another run ({holder or 'unknown'}); wait for its end, or end it first"
        ) from None
    # only for messages, so ignore a full disk here
    with suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def spare(logger: Logger) -> Aside:
    """Guard the methods that a trainer calls on a logger.

    Returns:
        The guard, which counts its failures.
    """
    aside = Aside(f"{type(logger).__name__}")

    def reopening(call: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            before = aside.failures
            result = call(*args, **kwargs)
            # a failed TensorBoard writer keeps failing; a new one creates a file, so do not replace it every time
            if aside.failures > before and aside.failures.bit_count() == 1 and isinstance(logger, TensorBoardLogger):
                logger._experiment = None
            return result

        return guarded

    for name in CALLS:
        setattr(logger, name, reopening(aside.wrap(getattr(logger, name))))
    return aside


def run_folder(trainer: L.Trainer) -> Path:
    """Find the folder of the run's files; every rank must call this, since the ranks agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir).absolute()


def resume_command(folder: Path, checkpoint: str) -> str:
    """Return the command that continues a run, or the call if it was started from Python.

    Args:
        folder: folder of the run, which contains its config if it was started from the command line.
        checkpoint: path of the newest checkpoint, ``last.ckpt``.
    """
    if records(folder) and Path(checkpoint).absolute().is_relative_to(folder.absolute()):
        return f"python -m lit_g2rpo fit --run {shlex.quote(str(shown(folder)))}"
    return f'trainer.fit(module, datamodule=data, ckpt_path="{shown(Path(checkpoint))}")'


def shown(path: Path) -> Path:
    """Format a path of a run for people: relative to the folder as they gave it, while that is still valid."""
    for root, given in GIVEN.items():
        if path.is_relative_to(root) and given.absolute() == root:
            return given / path.relative_to(root)
    return path
