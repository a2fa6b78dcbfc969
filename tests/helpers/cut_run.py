"""A toy run that ends with an error between two checkpoints and is resumed, on any logger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.loggers import Logger

from helpers.toy import ToyModule, fit
from lit_g2rpo.callbacks import AdvantageTopology, Alarms, BandPlots, RolloutCheckpoint, RolloutLog, RunSummary
from lit_g2rpo.callbacks.run_folder import RunFolder
from lit_g2rpo.training.curve_file import CURVES, read_points

Points = dict[str, list[tuple[int, float]]]


class Cut(L.Callback):
    """End the run in a rollout whose predecessors are no longer in the newest checkpoint."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step and pl_module.rollout_index == 4:
            raise RuntimeError("cut")


class Alarming(ToyModule):
    """A toy that has what `Alarms` reads."""

    def __init__(self) -> None:
        super().__init__(validation=lambda rollout: 0.5 - rollout / 100)
        self.policy.forbidden_token_ids, self.policy.pad_token_id = [7], 9


def callbacks(*more: L.Callback) -> list[L.Callback]:
    return [
        RunFolder(),
        RunSummary(),
        RolloutLog(every_rollouts=2, write_every=2),
        AdvantageTopology(every_rollouts=2, histograms_every=2, gradients_every=0),
        BandPlots(every_rollouts=2),
        Alarms(),
        RolloutCheckpoint(every_rollouts=2),
        *more,
    ]


def cut_and_resume(at: Path, make: Callable[[], Logger]) -> Path:
    """Train for six rollouts, cut in the fourth, from whose second it goes on.

    Args:
        at: folder of all runs.
        make: makes the logger, whose run is ``toy/version_0``.

    Returns:
        The folder of the run.
    """
    with pytest.raises(RuntimeError, match="cut"):
        fit(Alarming(), at, callbacks(Cut()), validate_every=3, logger=make())
    folder = at / "toy/version_0"
    # what a resumed run has to repeat, and not to draw again
    assert [point["rollout"] for point in read_points(folder / CURVES)] == [0, 1, 2, 3]
    fit(Alarming(), at, callbacks(), validate_every=3, checkpoint=str(folder / "checkpoints/last.ckpt"), logger=make())
    return folder


def curves(folder: Path) -> Points:
    """Read every curve of a run from its own file."""
    found: Points = {}
    for point in read_points(folder / CURVES):
        for name in point.keys() - {"rollout", "time"}:
            found.setdefault(name, []).append((point["rollout"], point[name]))
    return found
