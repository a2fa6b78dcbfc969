"""Scoring beside decoding: the same scores and counts as afterwards, in whatever order groups come."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.outcome import Failure, failed
from lit_g2rpo.rewards.running.scorer import Scored, Scorer
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
        Scorer(functions={"own": HERE}, in_process=["own"], limits=limits, failures_file=tmp_path / f"{name}.jsonl")
        for name in "sb"
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
        return [Scored(failed(Failure("x", "x")))] * len(own)

    def sample() -> None:
        with BackgroundScoring(attempt) as scoring:
            scoring.finished(0, [completion("c")])
            raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        sample()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scoring")]
    assert seen in ([], [0])


@pytest.mark.parametrize("engine", ["native", "huggingface"])
def test_an_error_of_scoring_ends_the_run(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def broken(*args: Any) -> Any:
        raise UserError("the reward's licence has expired")

    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", broken)
    with pytest.raises(UserError, match="the reward's licence has expired"):
        trainer(tmp_path, 2).fit(module(random_folder, rollout={"engine": engine}), data())
