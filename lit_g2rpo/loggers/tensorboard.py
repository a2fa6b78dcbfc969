"""TensorBoard with an overview first: names that sort the sections, and settings next to results."""

import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.loggers.run_logger import Repeated, RunLogger, ShownGroup, flat

OVERVIEW = {
    "rollout/accuracy": "accuracy",
    "val/accuracy": "accuracy (validation)",
    "rollout/entropy": "entropy",
    "rollout/length": "length",
    "rollout/reward": "reward",
}
BY_TASK = {
    "val/accuracy": "2 validation by task",
    "rollout/reward": "3 reward by task",
    "rollout/accuracy": "4 accuracy by task",
    "rollout/length": "5 length by task",
    "rollout/entropy": "6 entropy by task",
}
"""Metrics whose values per task get their own section."""

SETTINGS = (
    "name",
    "seed_everything",
    "schedule.rollouts",
    "model.policy.path",
    "model.policy.lora.rank",
    "model.objective.class_path",
    *(f"model.objective.init_args.{key}" for key in ("scope", "loss", "mean", "clip_*", "*_coefficient", "filtering")),
    *(f"model.objective.init_args.{key}" for key in ("entropy", "length_weight", "length_needs_accuracy")),
    "model.optimizer.class_path",
    *(f"model.optimizer.init_args.{key}" for key in ("lr", "weight_decay")),
    *(f"model.rollout.{key}" for key in ("prompts", "group_size", "temperature")),
    "model.update.*",
)
"""Keys of a recipe that the HParams tab shows, as patterns."""


def tag_of(name: str) -> str:
    """Return the TensorBoard name of a metric, image, text or histogram, sorted by the part before the first slash."""
    if name in OVERVIEW:
        return f"1 overview/{OVERVIEW[name]}"
    metric, _, task = name.rpartition("/")
    if metric in BY_TASK:
        return f"{BY_TASK[metric]}/{task}"
    if name.startswith("alarm/"):
        # sorts after every letter
        return f"⚠ {name}"
    return name


def settings_of(recipe: Mapping[str, Any]) -> dict[str, bool | str | float]:
    """Select the settings from a recipe by which people compare runs.

    Returns:
        Values by key; a class by its name, without the path.
    """
    found: dict[str, bool | str | float] = {}
    for key, value in flat(recipe):
        if any(fnmatchcase(key, pattern) for pattern in SETTINGS) and isinstance(value, bool | str | int | float):
            short = key.removeprefix("model.").replace("init_args.", "").removesuffix(".class_path")
            found[short] = str(value).rpartition(".")[2] if key.endswith(".class_path") else value
    return found


def drop_later(logger: TensorBoardLogger, rollout: int) -> None:
    """Make TensorBoard drop all points after a rollout; -1 drops everything.

    Source: the purge_step of torch.utils.tensorboard.SummaryWriter, which is only known once its writer exists.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer: Any = logger.experiment.file_writer
    writer.add_event(Event(step=rollout + 1, file_version="brain.Event:2"))
    writer.add_event(Event(step=rollout + 1, session_log=SessionLog(status=SessionLog.START)))


class TensorBoard(RunLogger, TensorBoardLogger):
    """Log to TensorBoard: an overview first, then a chart per task, with a color per run; alarms last.

    The names of the overview, tasks and alarms come from `tag_of`; all others are the metric's own.

    Args:
        save_dir: folder of all runs.
        name: name of the experiment; None for that of the recipe, and for none without one.
        version: number, or name, of the run's folder; None for the next number.
    """

    def __init__(self, save_dir: str = "runs", name: str | None = None, version: int | str | None = None) -> None:
        TensorBoardLogger.__init__(self, save_dir, name=name, version=version, default_hp_metric=False)

    @property
    @override
    def place(self) -> TensorBoardLogger:
        return self

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({tag_of(name): value for name, value in metrics.items()}, step)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Fill the HParams tab.

        Args:
            params: the recipe.
        """
        from torch.utils.tensorboard.summary import hparams

        self.hparams = settings_of(params)
        # no summary of an experiment: TensorBoard would take that of any one run for all of them, without the settings
        # that only others have, and without knowing which differ
        _, start, end = hparams(self.hparams, {})  # type: ignore[no-untyped-call]
        writer: Any = self.experiment.file_writer
        for summary in (start, end):
            writer.add_summary(summary, 0)

    @override
    def forget(self, rollout: int, repeated: Repeated) -> None:
        super().forget(rollout, repeated)
        drop_later(self, rollout)

    @override
    def show_text(self, name: str, text: str, rollout: int) -> None:
        # TensorBoard drops no texts
        if rollout not in self.repeated:
            self.experiment.add_text(tag_of(name), text, rollout)

    @override
    def show_image(self, name: str, pixels: np.ndarray, rollout: int) -> None:
        self.experiment.add_image(tag_of(name), pixels, rollout, dataformats="HWC")

    @override
    def show_histogram(self, name: str, values: Tensor, rollout: int) -> None:
        self.experiment.add_histogram(tag_of(name), values, rollout)

    @override
    def show_groups(self, groups: Sequence[ShownGroup], rollout: int) -> None:
        for group in groups:
            self.show_text(group.name, group.text, rollout)
            for number, image in enumerate(group.images):
                name = f"image_{number}" if len(group.images) > 1 else "image"
                self.show_image(f"{group.name}/{name}", image, rollout)

    @override
    def how_to_open(self, folder: Path) -> str:
        return f"TensorBoard: tensorboard --logdir {shlex.quote(str(folder))}"
