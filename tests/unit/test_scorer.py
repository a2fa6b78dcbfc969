"""Whole rollouts: order, counts, budget, the file of failures, and processes only where they are needed."""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scorer, TooManyFailuresError

MATH = {"problem": "?", "problem_type": "math", "answer": "x+1"}
LETTER = {"problem": "?", "problem_type": "multiple choice", "options": ["A. a", "B. b"], "answer": "B"}


def wrapped(answer: str) -> str:
    return f"<thinking>r</thinking><answer>{answer}</answer>"


@pytest.fixture
def scorer(tmp_path: Path) -> Iterator[Callable[..., Scorer]]:
    made: list[Scorer] = []

    def build(source: str = "", **arguments: Any) -> Scorer:
        functions = {}
        if source:
            (tmp_path / "mine.py").write_text(f"def f(completion, sample):\n    {source}\n")
            functions = {"own": f"{tmp_path / 'mine.py'}:f"}
        made.append(Scorer(RewardConfig(), functions, in_process=functions, **arguments))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_the_same_scores_as_one_by_one_in_the_same_order(scorer: Callable[..., Scorer]) -> None:
    answers = ["B", "A", "C", "", "A or B"] * 10
    numbers = ["7", "8", "7.0", "seven", "14/2"] * 10
    completions = [wrapped(text) for pair in zip(answers, numbers, strict=True) for text in pair]
    samples = [LETTER, {**MATH, "answer": "7"}] * 50
    one = scorer()
    found = one.score(Batch(completions, samples, ["any"] * 100))
    for result, completion, sample in zip(found, completions, samples, strict=True):
        alone = score(completion, sample)
        assert (result.total, result.components, result.error) == (alone.total, alone.components, alone.error)
    assert not one._pool._running, "nothing here needs algebra"
    assert (one.failures, one.timeouts, one.restarts) == (0, 0, 0)
    assert one.seconds > 0
    assert one.score(Batch([], [], [])) == []


def test_user_rewards_serve_their_tasks_only(scorer: Callable[..., Scorer]) -> None:
    one = scorer("return {'total': 0.25, 'accuracy': 0.5, 'extra': 3}")
    found = one.score(Batch([wrapped("B")] * 4, [LETTER] * 4, ["own", "other", "own", "other"]))
    assert [result.total for result in found] == [0.25, 1.0, 0.25, 1.0]
    assert found[0].components == {"extra": 3.0, "accuracy": 0.5, "format": 1.0, "structure": 0.0}
    assert one.recent == (0, 2)


def test_failures_are_scored_zero_counted_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "failed.jsonl"
    source = tmp_path / "mine.py"
    source.write_text(
        "def f(completion, sample):\n"
        "    return {'0': lambda: 0.5, '1': lambda: None, '2': lambda: float('nan'), '3': lambda: 2.0,\n"
        "            '4': lambda: 'x', '5': lambda: 1 / 0}[completion]()\n"
    )
    limits = Limits(failed_samples=3)
    one = Scorer(RewardConfig(), {"own": f"{source}:f"}, in_process=["own"], failures_file=file, limits=limits)
    row = {**LETTER, "images": [b"bytes"], "pixels": object()}
    found = one.score(Batch(list("012345"), [row] * 6, ["own"] * 6))
    assert [result.total for result in found] == [0.5, 0, 0, 0, 0, 0]
    codes = [None, "not_applicable", "not_finite", "out_of_range", "bad_value", "ZeroDivisionError"]
    assert [result.error for result in found] == codes
    assert all(math.isfinite(value) for result in found for value in result.components.values())
    assert [result.failure is None for result in found] == [True] + [False] * 5
    assert one.failures == 4
    assert one.recent == (4, 6)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["error"] for entry in kept] == ["not_finite", "out_of_range", "bad_value"]
    assert kept[0]["completion"] == "2"
    assert kept[0]["sample"]["answer"] == "B"
    assert "ZeroDivisionError: division by zero (mine.py, line 3)" in one.last_failure


def test_the_budget(scorer: Callable[..., Scorer], tmp_path: Path) -> None:
    limits = Limits(failure_budget=0.05, failure_window=400)
    one = scorer("return 1 / 0", limits=limits, failures_file=tmp_path / "f", total=list)
    one.score(Batch(["c"] * 10, [LETTER] * 10, ["own"] * 10))  # ten among so few that they are taken for 200
    with pytest.raises(
        TooManyFailuresError, match=r"failed for 11 of 11 completions, .*failure_budget 0.05 allows; the l"
    ):
        one.score(Batch(["c"], [LETTER], ["own"]))
    with one.uncounted():
        one.score(Batch(["c"], [LETTER], ["own"]))
    assert one.recent == (11, 11)


def test_the_budget_is_that_of_all_ranks(scorer: Callable[..., Scorer]) -> None:
    limits, counts = Limits(failure_budget=0.05, failure_window=400), [20, 400, 0]
    one = scorer("return 1", limits=limits, total=lambda own: counts)
    one.score(Batch(["c"], [LETTER], ["own"]))
    counts[0] = 21
    with pytest.raises(RuntimeError, match=r"failed for 21 of 400"):
        one.score(Batch(["c"], [LETTER], ["own"]))
    unlimited = scorer("return 1 / 0", limits=limits)
    unlimited.score(Batch(["c"] * 400, [LETTER] * 400, ["own"] * 400))
    assert unlimited.recent == (400, 400)
    assert issubclass(TooManyFailuresError, UserError)


def test_the_window_forgets(scorer: Callable[..., Scorer]) -> None:
    one = scorer("return 1 / (completion != 'bad')", limits=Limits(failure_window=5))
    one.score(Batch(["bad"] * 3 + ["good"] * 3, [LETTER] * 6, ["own"] * 6))
    assert one.recent == (2, 5)
    assert one.failures == 3


def test_a_function_that_forgets_to_return_is_named(scorer: Callable[..., Scorer]) -> None:
    one = scorer("return 1.0 if completion == 'good' else None")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.score(Batch(["bad"] * 199 + ["good"] + ["bad"] * 199, [LETTER] * 399, ["own"] * 399))
        with one.uncounted():
            one.score(Batch(["good"], [LETTER], ["own"]))
    with pytest.warns(UserWarning, match=r"mine\.py:f returned None for the last 200 completions"):
        one.score(Batch(["bad"], [LETTER], ["own"]))
    assert one.failures == 0


def test_mistakes_are_found_before_anything_is_scored() -> None:
    with pytest.raises(UserError, match=r"^data\.tasks\.own\.reward is 'nothing\.f'"):
        Scorer(RewardConfig(), {"own": "nothing.f"}, in_process=["own"])
    with pytest.raises(UserError, match=r"data\.tasks\.own\.reward is 'judge', but model\.judge is not given"):
        Scorer(RewardConfig(), {"own": "judge"})
    with pytest.raises(UserError, match=r"model\.judge\.api_key_env is 'NO_SUCH_KEY'"):
        Scorer(RewardConfig(), {"own": "judge"}, judge=JudgeConfig("http://x/v1", "m", api_key_env="NO_SUCH_KEY"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"seconds": 0},
        {"memory": -1},
        {"failure_budget": 1.5},
        {"user_seconds": -1},
        {"user_memory": -1},
    ],
)
def test_limits_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"model\.reward_limits\.{next(iter(wrong))} is "):
        Limits(**wrong)
