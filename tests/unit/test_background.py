"""Scoring beside decoding: the same scores and counts as afterwards, in whatever order groups come."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from lightning.pytorch import Callback

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.tasks import TASKS
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scored, Scorer
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.background_scoring import BackgroundScoring

GROUP = 3
HERE = "test_background.rate"
CALLS: list[list[str]] = []
MAIN: list[bool] = []
SCORED = threading.Semaphore(0)


def rate(completions: list[str], **columns: Any) -> list[Any]:
    """A reward of the user's for batches, which fails for some completions."""
    CALLS.append(list(completions))
    MAIN.append(threading.current_thread() is threading.main_thread())
    SCORED.release()
    return ["no number" if len(text) % 7 == 0 else len(text) % 5 / 4 for text in completions]


@pytest.fixture(autouse=True)
def _afresh() -> None:
    CALLS.clear()
    MAIN.clear()
    while SCORED.acquire(blocking=False):
        pass


def completion(text: str) -> Completion:
    none = torch.zeros(1)
    return Completion(none.long(), none, none, text, False)


def values(scored: list[Any]) -> list[tuple[float, str | None]]:
    return [(one.total, one.error) for one in scored]


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 0, 2]])
def test_counts_and_files_are_those_of_scoring_in_order(tmp_path: Path, order: list[int], here: bool) -> None:
    texts = [["x" * (4 * i + g) for g in range(GROUP)] for i in range(6)]
    flat = [text for group in texts for text in group]
    sample = {"problem": "p", "answer": "a", "problem_type": "ocr"}
    limits = Limits(failure_window=7, failed_samples=2)
    sequential, beside = (
        Scorer(functions={"own": HERE}, limits=limits, failures_file=tmp_path / f"{name}.jsonl") for name in "sb"
    )
    expected = sequential.score(Batch(flat, [sample] * len(flat), ["own"] * len(flat)))
    assert sequential.failures > limits.failed_samples
    CALLS.clear()

    def attempt(indices: list[int], own: list[Completion]) -> list[Scored]:
        n = len(own)
        assert [c.text for c in own] == [text for i in indices for text in texts[i]]
        return beside.attempt(Batch([c.text for c in own], [sample] * n, ["own"] * n), GROUP)

    with BackgroundScoring(attempt, here) as scoring:
        for i in order:
            scoring.finished(i, [completion(text) for text in texts[i]])
        found = beside.count(scoring.results())
    assert values(found) == values(expected)
    for name in ("failures", "timeouts", "recent", "last_failure"):
        assert getattr(beside, name) == getattr(sequential, name), name
    assert (tmp_path / "b.jsonl").read_text() == (tmp_path / "s.jsonl").read_text()
    assert [texts[i] for i in order] == CALLS, "a batch is a group"


def test_an_error_in_the_thread_is_raised_when_results_are_asked_for() -> None:
    def attempt(indices: list[int], own: list[Completion]) -> list[Scored]:
        raise UserError(f"group {indices[0]} cannot be scored")

    with BackgroundScoring(attempt) as scoring:
        scoring.finished(3, [completion("c")])
        with pytest.raises(UserError, match="group 3 cannot be scored"):
            scoring.results()


def test_an_error_in_the_engine_leaves_no_thread() -> None:
    seen: list[int] = []

    def attempt(indices: list[int], own: list[Completion]) -> list[Scored]:
        seen.extend(indices)
        return [Scored(lit_g2rpo.rewards.running.scorer.failed("x"))] * len(own)

    def sample() -> None:
        with BackgroundScoring(attempt) as scoring:
            scoring.finished(0, [completion("c")])
            raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        sample()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scoring")]
    assert seen in ([], [0])


class Notes(Callback):
    """Keep what each rollout came to."""

    def __init__(self) -> None:
        self.rollouts: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 1:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("rollout/", "train/"))}
            self.rollouts.append((values(pl_module.experience.rewards), metrics))


class Patient(NativeEngine):
    """Sample on only when the group that it handed over has been scored."""

    def __init__(self) -> None:
        super().__init__(max_rows=8)
        self.waits = 0

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        assert finished is not None

        def wait(index: int, completions: list[Completion]) -> None:
            finished(index, completions)
            assert SCORED.acquire(timeout=60), "nobody scores while completions are sampled"
            self.waits += 1

        return super().generate(prompts, group_size, sampling, wait)


def fit(folder: str, out: Path, user_seconds: float, engine: NativeEngine) -> list[Any]:
    notes, run = Notes(), module(folder)
    run.reward_limits = Limits(user_seconds=user_seconds, failure_budget=1.0)
    run.engine = engine
    trainer(out, 4, callbacks=[notes]).fit(run, data(tasks={name: {"reward": HERE} for name in TASKS}))
    return notes.rollouts


def test_rewards_are_computed_while_completions_are_sampled_and_change_nothing(
    random_folder: str, tmp_path: Path
) -> None:
    engine = Patient()
    beside = fit(random_folder, tmp_path, 60.0, engine)
    assert engine.waits == 2 * 12
    calls, MAIN[:] = sorted(CALLS), []
    CALLS.clear()
    after = fit(random_folder, tmp_path, 0.0, NativeEngine(max_rows=8))
    assert all(MAIN), "without a limit of time a reward is called in the caller's own thread"
    assert sorted(CALLS) == calls
    assert all(len(call) == 4 for call in calls)
    assert beside == after
    assert beside[0][1]["rollout/reward_failures"] > 0


@pytest.mark.parametrize("engine", ["native", "huggingface"])
def test_an_error_of_scoring_ends_the_run(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def broken(*args: Any) -> Any:
        raise UserError("the reward's licence has expired")

    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", broken)
    with pytest.raises(UserError, match="the reward's licence has expired"):
        trainer(tmp_path, 2).fit(module(random_folder, rollout={"engine": engine}), data())
