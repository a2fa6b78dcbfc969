"""A run that ends in the middle of a rollout goes on with the groups it has, to the same bits."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import varied_score
from helpers.partial_run import STEPS, Killed, Trace, records, start

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.group_records
import lit_g2rpo.training.partial_rollout
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.rewards import RewardResult


@pytest.fixture(scope="module", autouse=True)
def _varied_rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        patch.setattr(lit_g2rpo.training.group_records, "DELAY", 0.0)
        yield


def coin_score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
    """Right or wrong by the text's digest, so that groups are tied and refilled."""
    right = float(hashlib.sha256(text.encode()).digest()[0] % 8 == 0)
    return RewardResult(0.9 * right, right, 0.0, 0.0, {}, None, 0.0)


def assert_same_end(ours: tuple[G2RPOModule, Trace], theirs: tuple[G2RPOModule, Trace]) -> None:
    assert ours[0].trainer.global_step == theirs[0].trainer.global_step == STEPS
    for name, weight in ours[0].policy.state_dict().items():
        assert torch.equal(weight, theirs[0].policy.state_dict()[name]), name
    states = [run.trainer.optimizers[0].state_dict()["state"] for run, _ in (ours, theirs)]
    for mine, other in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    for step, metrics in ours[1].steps.items():
        straight = theirs[1].steps[step]
        assert {k: v for k, v in straight.items() if k.startswith(("train/", "rollout/"))} == {
            k: v for k, v in metrics.items() if k.startswith(("train/", "rollout/"))
        }


@pytest.fixture(scope="module")
def straight(random_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[G2RPOModule, Trace]:
    """Without the setting."""
    return start(random_folder, tmp_path_factory.mktemp("straight"), partial=False)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(lit_g2rpo.training.partial_rollout, "rank_zero_info", lines.append)
    monkeypatch.setattr(lit_g2rpo.training.partial_rollout, "rank_zero_warn", lines.append)
    return lines


def resumed(policy: str, folder: Path, at: tuple[int, int, int], **options: Any) -> tuple[G2RPOModule, Trace]:
    with pytest.raises(Killed):
        start(policy, folder, at, **options)
    return start(policy, folder, resume=True, **options)


@pytest.mark.parametrize(("rollout", "done"), [(2, 1), (2, 9), (3, 5), (3, 12)])
def test_a_resumed_run_samples_the_missing_groups_alone(
    straight: tuple[G2RPOModule, Trace],
    random_folder: str,
    tmp_path: Path,
    said: list[str],
    rollout: int,
    done: int,
) -> None:
    again = resumed(random_folder, tmp_path, (rollout, 0, done))
    assert_same_end(again, straight)
    lines = [f"resumed: {done} of 12 groups of rollout {rollout + 1} were already sampled"]
    if rollout == 3:
        # the checkpoint is from before it, and it learns from it again
        lines.insert(0, "resumed: 12 of 12 groups of rollout 3 were already sampled")
    assert said == lines
    costs = straight[1].row_steps
    straight_cost = {i: costs[2 * i + 1] - costs.get(2 * i, 0) for i in range(4)}
    own = again[1].row_steps
    resumed_cost = {i: own[2 * i + 1] - own.get(2 * i, 0) for i in (2, 3)}
    # four groups are decoded together
    whole = done // 4
    assert (resumed_cost[rollout] == 0) == (done == 12)
    assert (resumed_cost[rollout] < straight_cost[rollout]) == (whole > 0)
    if rollout == 3:
        assert resumed_cost[2] == 0
    else:
        assert resumed_cost[3] == straight_cost[3]
    assert records(tmp_path) == []


def test_a_run_that_is_killed_twice_keeps_both_parts(
    straight: tuple[G2RPOModule, Trace], random_folder: str, tmp_path: Path, said: list[str]
) -> None:
    for resume, done in ((False, 3), (True, 9)):
        with pytest.raises(Killed):
            start(random_folder, tmp_path, (2, 0, done), resume=resume)
    assert_same_end(start(random_folder, tmp_path, resume=True), straight)
    counts = [line.split()[1] for line in said]
    assert counts == ["3", "9"]


def test_refills_are_kept_too(random_folder: str, tmp_path: Path, monkeypatch: Any, said: list[str]) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)
    whole = start(random_folder, tmp_path / "straight", filtering="refill", partial=False)
    assert whole[1].steps[5]["rollout/refilled"] > 0
    again = resumed(random_folder, tmp_path / "killed", (2, 1, 2), filtering="refill")
    assert_same_end(again, whole)
    assert said[0] == "resumed: 12 of 12 groups of rollout 3 were already sampled"
    assert said[1].startswith("resumed: 2 of ")
    assert said[1].endswith("groups of rollout 3, refill wave 1 were already sampled")


@pytest.fixture(scope="module")
def killed(random_folder: str, tmp_path_factory: pytest.TempPathFactory, _varied_rewards: None) -> Path:
    """A run that ended after 9 groups of its third rollout."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        start(random_folder, folder, (2, 0, 9))
    assert records(folder) == ["rollout=00003-rank0.jsonl"]
    return folder


@pytest.fixture
def copied(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "copy", symlinks=True)


def test_scores_are_not_asked_for_twice(random_folder: str, copied: Path, monkeypatch: Any) -> None:
    asked: list[str] = []

    def score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
        asked.append(text)
        return varied_score(text, sample, config)

    scored = sum("scores" in line for line in lines_of(copied))
    assert scored
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", score)
    start(random_folder, copied, resume=True, steps=5)
    # what was sampled but not scored yet is scored now; four completions a group
    assert len(asked) == 4 * (12 - scored)


def test_a_torn_end_and_a_changed_line_are_left_out(
    straight: tuple[G2RPOModule, Trace], random_folder: str, copied: Path, said: list[str]
) -> None:
    path = copied / "c" / "partial" / "rollout=00003-rank0.jsonl"
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if b"scores" not in line]
    middle = bytearray(lines[4])
    middle[len(middle) // 2] ^= 1
    path.write_bytes(b"".join([*lines[:4], middle, *lines[5:-1], lines[-1][: len(lines[-1]) // 2]]))
    assert_same_end(start(random_folder, copied, resume=True), straight)
    assert said == [
        "2 lines of groups of rollout 3 are not whole; they are left out",
        "resumed: 7 of 12 groups of rollout 3 were already sampled",
    ]


class OneBit(pl.Callback):
    """Change one weight by the smallest step there is."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        weight = next(p for n, p in pl_module.policy.named_parameters() if n.endswith("q_proj.weight"))
        with torch.no_grad():
            weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"callbacks": (OneBit(),)}, "weights"),
        ({"temperature": 0.9}, "temperature"),
        ({"tokens": 9}, "max_completion_tokens"),
        ({"max_rows": 32}, "max_rows"),
    ],
)
def test_groups_of_another_state_are_dropped(
    random_folder: str, killed: Path, copied: Path, said: list[str], change: dict[str, Any], word: str
) -> None:
    other = shutil.copytree(killed, copied.parent / "other", symlinks=True)
    again = start(random_folder, copied, resume=True, steps=5, **change)
    assert said == [
        "9 groups of rollout 3 that were sampled before are dropped, since they belong to another state "
        f"({word}); they are sampled again"
    ]
    fresh = start(random_folder, other, resume=True, steps=5, partial=False, **change)
    assert again[1].steps == fresh[1].steps
    assert again[1].row_steps == fresh[1].row_steps


def lines_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "c" / "partial" / "rollout=00003-rank0.jsonl"
    return [json.loads(line.partition(" ")[2]) for line in path.read_text().splitlines()]
