"""Groups that teach nothing are replaced by prompts of their task: alike on any number of ranks, and on resume."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from lightning.pytorch import Callback

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.rewards import RewardResult

SIZES: dict[str, Any] = {"rollout": {"prompts": 12, "group_size": 2}, "update": {"microbatches": 4}}


def coin_score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
    """Right or wrong by the text's digest: half of all groups of two are tied."""
    right = float(hashlib.sha256(text.encode()).digest()[0] % 2)
    return RewardResult(
        total=0.9 * right, accuracy=right, format=0.0, structure=0.0, components={}, error=None, seconds=0.0
    )


@pytest.fixture(autouse=True)
def _coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)


class Notes(Callback):
    """Keep what each rollout came to."""

    def __init__(self) -> None:
        self.rollouts: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 1:  # metrics are there after an optimizer step, of two micro-batches
            experience = pl_module.experience
            self.rollouts.append(
                {
                    "given": [p.id for p in batch[0]],
                    "prompts": [p.id for p in experience.prompts],
                    "tasks": [p.task for p in experience.prompts],
                    "valid": experience.table.valid[:, 0].tolist(),
                    "refills": experience.refills,
                    "completions": [c.text for c in experience.completions],
                    "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("rollout/")},
                }
            )


def run(folder: str, out: Path, steps: int, waves: int = 3, **options: Any) -> tuple[Any, Notes]:
    notes = Notes()
    checkpoint = options.pop("ckpt_path", None)
    fit = trainer(out, steps, callbacks=[notes, *options.pop("callbacks", [])], **options)
    trained = module(folder, GRPO(filtering="refill", refill_waves=waves), **SIZES)
    fit.fit(trained, data(train_per_task=50), ckpt_path=checkpoint)
    return fit, notes


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


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resume_draws_the_same(random_folder: str, tmp_path: Path, step: int) -> None:
    """Steps 1 and 3 lie inside a rollout, whose replaced prompts are opened again."""
    path = tmp_path / "cut.ckpt"
    straight, notes = run(random_folder, tmp_path / "a", 6, callbacks=[SaveAt(step, path)])
    resumed, more = run(random_folder, tmp_path / "b", 6, ckpt_path=path)
    for rollout, again in zip(notes.rollouts[-len(more.rollouts) :], more.rollouts, strict=True):
        assert rollout["prompts"] == again["prompts"]
        assert rollout["completions"] == again["completions"]
    one, other = straight.lightning_module.state_dict(), resumed.lightning_module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_ranks_draw_the_same(random_folder: str, tmp_path: Path) -> None:
    found = {}
    for devices in (1, 2):
        out = tmp_path / str(devices)
        command = [sys.executable, __file__, random_folder, str(out), str(devices)]
        subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parent)
        ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(devices)]
        prompts = [[r[i]["prompts"] for r in ranks] for i in range(len(ranks[0]))]
        found[devices] = [[id for ids in zip(*parts, strict=True) for id in ids] for parts in prompts]
        assert all(r[0]["refills"] == ranks[0][0]["refills"] for r in ranks)
    assert found[1] == found[2]


if __name__ == "__main__":
    lit_g2rpo.rewards.running.scorer.score = coin_score
    torch.set_num_threads(1)
    folder, out, devices = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    fit, notes = run(folder, out, 4, devices=devices, strategy="ddp" if devices > 1 else "auto")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{fit.global_rank}.json").write_text(json.dumps(notes.rollouts))
