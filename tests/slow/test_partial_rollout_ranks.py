"""Runs of two ranks that are killed inside a rollout, by signal 9, and go on with the groups they have."""

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import varied_score
from helpers.partial_run import STEPS, records, start
from helpers.paths import HELPERS
from helpers.processes import Commands

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.partial_rollout

RUN = HELPERS / "partial_run.py"
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def straight(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Results:
    folder = tmp_path_factory.mktemp("straight")
    shared_commands.python(RUN, random_folder, folder, 2, 0, 0)
    return results(folder)


@pytest.fixture(scope="module")
def killed(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    done = shared_commands.run(sys.executable, RUN, random_folder, folder, 2, 0, 5)
    assert done.returncode == -signal.SIGKILL
    return folder


def results(folder: Path) -> Results:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def groups_on_disk(folder: Path) -> int:
    files = (folder / "c" / "partial").glob("rollout=00003-rank*.jsonl")
    return sum(
        line.endswith(b"\n") and b"token_ids" in line for path in files for line in path.read_bytes().splitlines(True)
    )


def test_two_ranks_go_on_to_the_same_bits(
    straight: Results, killed: Path, random_folder: str, tmp_path: Path, commands: Commands
) -> None:
    folder = shutil.copytree(killed, tmp_path / "copy", symlinks=True)
    kept = groups_on_disk(folder)
    assert 0 < kept < 12
    done = commands.run(sys.executable, RUN, random_folder, folder, 2, 1, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"resumed: {kept} of 12 groups of rollout 3 were already sampled") == 1
    for one, other in zip(results(folder), straight, strict=True):
        for step in range(5, STEPS + 1):
            assert one["tokens"][step] == other["tokens"][step]
            # durations are left out, and what only one of them has logged before
            same = {k: v for k, v in other["steps"][step].items() if k.startswith(("train/", "rollout/"))}
            assert {k: one["steps"][step][k] for k in same} == same
        for name, weight in one["weights"].items():
            assert torch.equal(weight, other["weights"][name]), name
        for place, state in one["optimizer"]["state"].items():
            assert all(torch.equal(value, other["optimizer"]["state"][place][name]) for name, value in state.items())
    assert records(folder) == []


def test_one_rank_takes_over_what_two_have_sampled(
    straight: Results, killed: Path, random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
    said: list[str] = []
    monkeypatch.setattr(lit_g2rpo.training.partial_rollout, "rank_zero_info", said.append)
    folder = shutil.copytree(killed, tmp_path / "copy", symlinks=True)
    kept = groups_on_disk(folder)
    _, trace = start(random_folder, folder, resume=True, steps=5)
    assert said == [f"resumed: {kept} of 12 groups of rollout 3 were already sampled"]
    # prompt by prompt, rank r of two has every second one, of four completions
    own = [trace.tokens[5][i : i + 4] for i in range(0, 48, 4)]
    both = [[result["tokens"][5][i : i + 4] for i in range(0, 24, 4)] for result in straight]
    assert own == [group for pair in zip(*both, strict=True) for group in pair]
    assert records(folder) == []
