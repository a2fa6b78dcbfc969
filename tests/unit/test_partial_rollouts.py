"""A run that ends in the middle of a rollout goes on with the groups it has, to the same bits."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer, varied_score

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.experience import Completion
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

STEPS = 8
"""Two an rollout, so four rollouts of 12 groups, with a checkpoint after two."""


class Killed(BaseException):
    """Stands for the end of a process: nothing is saved on the way out."""


class Kill(NativeEngine):
    """Sample four groups at a time, and die when so many groups of a rollout, or a refill of it, are done."""

    at: tuple[int, int, int] | None = None

    def generate(
        self, prompts: Any, group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        done = 0

        def told(index: int, completions: list[Completion]) -> None:
            nonlocal done
            assert finished is not None
            finished(index, completions)
            done += 1
            if (sampling.rollout, sampling.wave, done) == self.at:
                raise Killed

        return super().generate(prompts, group_size, sampling, told)


class Trace(pl.Callback):
    """Keep every metric but durations, and what each rollout cost, by optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.row_steps: dict[int, int] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("perf/")}
        self.steps[trainer.global_step] = {k: v for k, v in metrics.items() if "/" in k}
        self.row_steps[trainer.global_step] = pl_module.policy.backbone.counters.row_steps


@pytest.fixture(scope="module", autouse=True)
def _varied_rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        yield


def coin_score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
    """Right or wrong by the text's digest, so that groups are tied and refilled."""
    right = float(hashlib.sha256(text.encode()).digest()[0] % 8 == 0)
    return RewardResult(0.9 * right, right, 0.0, 0.0, {}, None, 0.0)


def start(
    policy: str,
    folder: Path,
    at: tuple[int, int, int] | None = None,
    resume: bool = False,
    filtering: str = "off",
    partial: bool = True,
    change: Callable[[G2RPOModule], None] = lambda run: None,
    **rollout: Any,
) -> tuple[G2RPOModule, Trace]:
    objective = G2RPO(filtering=filtering, entropy_coefficient=0.02, length_weight=0.1, kl_coefficient=0.01)  # type: ignore[arg-type]
    run = module(policy, objective, rollout={"engine": f"{__name__}.Kill", "max_rows": 16} | rollout)
    change(run)
    assert isinstance(run.engine, Kill)
    run.engine.at = at
    trace = Trace()
    keeper = RolloutCheckpoint(every_rollouts=2, monitor=None, dirpath=str(folder / "c"), partial_rollouts=partial)
    fit = trainer(folder, STEPS, callbacks=[trace, keeper], enable_checkpointing=True)
    fit.fit(run, data(), ckpt_path=str(folder / "c" / "last.ckpt") if resume else None)
    return run, trace


def records(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "c" / "partial").glob("*"))


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
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def resumed(policy: str, folder: Path, at: tuple[int, int, int], **options: Any) -> tuple[G2RPOModule, Trace]:
    with pytest.raises(Killed):
        start(policy, folder, at, **{k: v for k, v in options.items() if k != "change"})
    return start(policy, folder, resume=True, **options)


@pytest.mark.parametrize(("rollout", "done"), [(2, 1), (2, 9), (3, 5), (3, 12)])
def test_a_resumed_run_samples_the_missing_groups_alone(
    straight: tuple[G2RPOModule, Trace],
    random_folder: str,
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
    rollout: int,
    done: int,
) -> None:
    again = resumed(random_folder, tmp_path, (rollout, 0, done))
    assert_same_end(again, straight)
    lines = [f"resumed: {done} of 12 groups of rollout {rollout + 1} were already sampled"]
    if rollout == 3:
        # the checkpoint is from before it, and it learns from it again
        lines.insert(0, "resumed: 12 of 12 groups of rollout 3 were already sampled")
    assert [line for line in said.messages if line.startswith("resumed: ")] == lines
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
    straight: tuple[G2RPOModule, Trace], random_folder: str, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for resume, done in ((False, 3), (True, 9)):
        with pytest.raises(Killed):
            start(random_folder, tmp_path, (2, 0, done), resume=resume)
    assert_same_end(start(random_folder, tmp_path, resume=True), straight)
    counts = [line.split()[1] for line in said.messages if line.startswith("resumed: ")]
    assert counts == ["3", "9"]


def test_refills_are_kept_too(random_folder: str, tmp_path: Path, monkeypatch: Any, said: Any) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)
    whole = start(random_folder, tmp_path / "straight", filtering="refill", partial=False)
    assert whole[1].steps[5]["rollout/refilled"] > 0
    again = resumed(random_folder, tmp_path / "killed", (2, 1, 2), filtering="refill")
    assert_same_end(again, whole)
    lines = [line for line in said.messages if line.startswith("resumed: ")]
    assert lines[0] == "resumed: 12 of 12 groups of rollout 3 were already sampled"
    assert lines[1].startswith("resumed: 2 of ")
    assert lines[1].endswith("groups of rollout 3, refill wave 1 were already sampled")


def test_scores_are_not_asked_for_twice(random_folder: str, tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[str] = []

    def score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
        asked.append(text)
        return varied_score(text, sample, config)

    with pytest.raises(Killed):
        start(random_folder, tmp_path, (2, 0, 9))
    scored = sum("scores" in line for line in lines_of(tmp_path, 3))
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", score)
    start(random_folder, tmp_path, resume=True)
    # what was sampled but not scored yet is scored now; four completions a group
    assert len(asked) == 4 * (12 - scored + 12)


def lines_of(folder: Path, rollout: int) -> list[dict[str, Any]]:
    path = folder / "c" / "partial" / f"rollout={rollout:05d}-rank0.jsonl"
    return [json.loads(line.partition(" ")[2]) for line in path.read_text().splitlines()]
