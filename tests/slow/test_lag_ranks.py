"""Two ranks that sample a rollout ahead do what one process does, on resume too, and stop together."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import varied_score
from helpers.lag_run import STEPS, start
from helpers.paths import HELPERS
from helpers.processes import Commands

import lit_g2rpo.rewards.running.scorer

RUN = HELPERS / "lag_run.py"
Results = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _varied_rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        yield


@pytest.fixture(scope="module")
def alone(random_folder: str, tmp_path_factory: pytest.TempPathFactory, _varied_rewards: None) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return start(random_folder, folder)[1].steps, folder


def results(folder: Path) -> Results:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_alike(ranks: Results, alone: Any, first: int) -> None:
    for step in range(first, STEPS + 1):
        both = [rank["steps"][step] for rank in ranks]
        for name in ("tokens", "versions"):
            groups = [[own[name][i : i + 4] for i in range(0, 24, 4)] for own in both]
            joined = [one for pair in zip(*groups, strict=True) for group in pair for one in group]
            assert joined == alone[step][name], (step, name)
        for name in ("train/loss", "train/grad_norm", "rollout/staleness_mean"):
            assert both[0][name] == both[1][name] == pytest.approx(alone[step][name], rel=1e-4, abs=1e-6)
        assert both[0]["rollout/engine_gap_max"] < 1e-5


def test_two_ranks_learn_what_one_process_learns(
    alone: tuple[Any, Path], random_folder: str, tmp_path: Path, commands: Commands
) -> None:
    commands.python(RUN, random_folder, tmp_path, 2, "-", -1)
    assert_alike(results(tmp_path), alone[0], 1)


@pytest.mark.parametrize("after", [6, 8])
def test_two_ranks_take_over_what_one_process_sampled_ahead(
    alone: tuple[Any, Path], random_folder: str, tmp_path: Path, commands: Commands, after: int
) -> None:
    commands.python(RUN, random_folder, tmp_path, 2, alone[1] / f"{after}.ckpt", -1)
    assert_alike(results(tmp_path), alone[0], after // 2 + 1)


def test_all_ranks_stop_saved_if_one_cannot_sample(random_folder: str, tmp_path: Path, commands: Commands) -> None:
    done = commands.run(sys.executable, RUN, random_folder, tmp_path, 2, "-", 2)
    assert done.returncode != 0
    said = "SamplingStopError: rollout 3 could not be sampled: ConnectionError: the server has gone"
    assert [rank["error"] for rank in results(tmp_path)] == [said] * 2
    assert (tmp_path / "c" / "last.ckpt").resolve().name == "rollout=00002-step=000004.ckpt"
