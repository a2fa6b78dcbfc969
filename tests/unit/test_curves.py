"""The curves hold what each rollout measured, once, however often the run was cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from helpers.build import data, module, trainer, varied_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.callbacks import Alarms, EntropyBounds, LengthCurriculum, RolloutCheckpoint
from lit_g2rpo.loggers import TensorBoard
from lit_g2rpo.loggers.tensorboard import tag_of
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.rewards import RewardResult

Curves = dict[str, list[tuple[int, float]]]


class Killed(Exception):
    """Stands for a signal that nothing can catch."""


class KillAt(pl.Callback):
    """End the run when so many micro-batches are done, before anything more is written."""

    def __init__(self, after: int, save: Path | None = None) -> None:
        self.after, self.save, self.done = after, save, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        if self.done == self.after:
            if self.save:
                trainer.save_checkpoint(self.save)
            raise Killed


def curves(folder: Path) -> Curves:
    """Every curve but those of time, as TensorBoard reads them."""
    found = EventAccumulator(str(folder / "run/version_0"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if not tag.startswith("perf/")
    }


def fit(folder: str, at: Path, rollouts: int, *callbacks: pl.Callback, cut: Path | None = None, **options: Any) -> None:
    """Train for rollouts of two optimizer steps, with a validation every second one and before the first."""
    watches = [EntropyBounds(), LengthCurriculum(rollouts=3), Alarms(), *callbacks]
    defaults = {
        "num_sanity_val_steps": -1,
        "limit_val_batches": 1.0,
        "val_check_interval": 8,
        "enable_checkpointing": True,
    }
    made = trainer(
        at,
        2 * rollouts,
        logger=TensorBoard(str(at), name="run", version=0),
        callbacks=[*watches, RolloutCheckpoint(every_rollouts=2)],
        check_val_every_n_epoch=None,
        **defaults | options,
    )
    made.fit(module(folder, G2RPO(filtering="drop", entropy_coefficient=0.0)), data(), ckpt_path=cut)


@pytest.fixture
def one_task_ties(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RewardResult]:
    """Rewards that differ but in the task ``ocr``, whose groups are all dropped."""

    def score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
        return varied_score("" if sample["problem_type"] == "OCR" else text, sample)

    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", score)
    return score


@pytest.mark.parametrize("after", [13, 15, 20])
def test_a_killed_and_resumed_run_has_the_curves_of_a_straight_one(
    random_folder: str, tmp_path: Path, varied_rewards: None, after: int
) -> None:
    fit(random_folder, tmp_path / "straight", 6)
    with pytest.raises(Killed):
        fit(random_folder, tmp_path / "cut", 6, KillAt(after))
    last = tmp_path / "cut/run/version_0/checkpoints/last.ckpt"
    fit(random_folder, tmp_path / "cut", 6, cut=last)
    straight = curves(tmp_path / "straight")
    assert curves(tmp_path / "cut") == straight
    assert [step for step, _ in straight[tag_of("rollout/reward")]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in straight[tag_of("val/accuracy")]] == [0, 2, 4, 6]
    assert {"train/loss", "train/grad_norm", tag_of("alarm/tied_groups")} <= straight.keys()


def test_a_run_cut_inside_a_rollout_has_them_too(random_folder: str, tmp_path: Path, varied_rewards: None) -> None:
    fit(random_folder, tmp_path / "straight", 4)
    saved = tmp_path / "inside.ckpt"
    with pytest.raises(Killed):
        fit(random_folder, tmp_path / "cut", 4, KillAt(10, saved))
    fit(random_folder, tmp_path / "cut", 4, cut=saved)
    assert curves(tmp_path / "cut") == curves(tmp_path / "straight")


@pytest.mark.usefixtures("one_task_ties")
def test_a_task_that_nothing_was_learned_from_has_no_point(random_folder: str, tmp_path: Path) -> None:
    fit(random_folder, tmp_path, 3)
    found = curves(tmp_path)
    assert [step for step, _ in found[tag_of("rollout/reward/ocr")]] == [1, 2, 3]
    assert not [tag for tag in found if tag.startswith("train/") and tag.endswith("/ocr")]


def test_a_validation_ends_the_run_whatever_its_interval(
    random_folder: str, tmp_path: Path, varied_rewards: None
) -> None:
    fit(random_folder, tmp_path, 3)
    assert [step for step, _ in curves(tmp_path)[tag_of("val/accuracy")]] == [0, 2, 3]
    fit(random_folder, tmp_path / "off", 1, limit_val_batches=0)
    assert tag_of("val/accuracy") not in curves(tmp_path / "off")
