"""Groups that teach nothing are replaced by prompts of their task: alike on any number of ranks, and on resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.refill_run import SIZES, Notes, coin_score, run
from lightning.pytorch import Callback

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.objectives import GRPO


@pytest.fixture(autouse=True)
def _coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)


def test_dropped_groups_are_replaced_by_their_task(random_folder: str, tmp_path: Path) -> None:
    _, notes = run(random_folder, tmp_path, 4)
    given = [id for rollout in notes.rollouts for id in rollout["given"]]
    drawn = [id for rollout in notes.rollouts for id in rollout["prompts"]]
    assert len(set(given) | set(drawn)) > len(set(given))
    for rollout in notes.rollouts:
        assert rollout["refills"]
        assert sum(rollout["valid"]) > 12 - len(rollout["refills"][0])
        replaced = {slot for wave in rollout["refills"] for slot in wave}
        for i, (before, after) in enumerate(zip(rollout["given"], rollout["prompts"], strict=True)):
            assert (before != after) == (i in replaced)
        assert rollout["metrics"]["rollout/refilled"] == pytest.approx(sum(map(len, rollout["refills"])) / 12)
        # what is still tied after the last wave is dropped
        assert rollout["metrics"]["rollout/dropped"] == pytest.approx(1 - sum(rollout["valid"]) / 12)
    # tasks come in turn in the stream, and stay where they were
    assert all(sorted(rollout["tasks"]) == sorted(notes.rollouts[0]["tasks"]) for rollout in notes.rollouts)


def test_accuracy_is_that_of_the_first_draw(random_folder: str, tmp_path: Path) -> None:
    _, notes = run(random_folder, tmp_path / "refill", 2)
    plain = Notes()
    fit = trainer(tmp_path / "drop", 2, callbacks=[plain])
    fit.fit(module(random_folder, GRPO(filtering="drop"), **SIZES), data(train_per_task=50))
    for name in ("accuracy", "reward", "length", "entropy"):
        found, expected = (n.rollouts[0]["metrics"][f"rollout/{name}"] for n in (notes, plain))
        assert found == expected


def test_one_wave_replaces_once(random_folder: str, tmp_path: Path) -> None:
    _, notes = run(random_folder, tmp_path, 2, waves=1)
    assert [len(rollout["refills"]) for rollout in notes.rollouts] == [1]


class SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def straight(random_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Notes, Path]:
    """Three rollouts of two steps, with checkpoints after the first three steps."""
    folder = tmp_path_factory.mktemp("straight")
    saves = [SaveAt(step, folder / f"{step}.ckpt") for step in (1, 2, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)
        return *run(random_folder, folder, 6, callbacks=saves), folder


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resume_draws_the_same(
    straight: tuple[Any, Notes, Path], random_folder: str, tmp_path: Path, step: int
) -> None:
    """Steps 1 and 3 lie inside a rollout, whose replaced prompts are opened again."""
    whole, notes, folder = straight
    resumed, more = run(random_folder, tmp_path, 6, ckpt_path=folder / f"{step}.ckpt")
    for rollout, again in zip(notes.rollouts[-len(more.rollouts) :], more.rollouts, strict=True):
        assert rollout["prompts"] == again["prompts"]
        assert rollout["completions"] == again["completions"]
    one, other = whole.lightning_module.state_dict(), resumed.lightning_module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
