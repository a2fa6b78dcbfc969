"""Rewards of the user's: how they are found, how each form is called, and what their failures become."""

import asyncio
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.paths import CASES, ROOT

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import load
from lit_g2rpo.rewards import RewardConfig, RewardResult
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.running.adapters import Batch, adapt
from lit_g2rpo.rewards.running.outcome import Failure, read_outcome
from lit_g2rpo.rewards.running.user import UserReward

EXAMPLE = ROOT / "examples" / "custom_reward.py"
ROW = {"problem": "2+3?", "problem_type": "math", "answer": "<answer>5</answer>", "data_source": "sums", "level": 3}


def wrapped(answer: str) -> str:
    return f"<thinking>r</thinking><answer>{answer}</answer>"


def batch(*answers: str, **rest: Any) -> Batch:
    n = len(answers)
    return Batch([wrapped(a) for a in answers], [ROW] * n, ["math_reasoning"] * n, **rest)


def totals(outcomes: list[Any]) -> list[Any]:
    """The total of each score, or the code of what stands in its place."""
    return [one.code if isinstance(one, Failure) else one.total for one in outcomes]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    number = itertools.count()

    def to(source: str) -> str:
        path = tmp_path / f"mine{next(number)}.py"
        path.write_text(source)
        return f"{path}:f"

    return to


def test_every_form_of_the_example() -> None:
    def values(name: str, count: Batch) -> list[Any]:
        return UserReward(f"{EXAMPLE}:{name}", RewardConfig())(count)

    two = batch("5", "6")
    short = values("short_and_right", two)
    assert [value.accuracy for value in short] == [1.0, 0.0]
    assert short[0].total == pytest.approx(0.9 + 0.1 * (1 - len(wrapped("5")) / 4000))
    assert totals(values("looked_up", batch("math_reasoning", "6"))) == [1.0, 0.0]
    assert totals(values("contains_solution", two)) == [1.0, 0.0]
    assert [(one.total, one.components["length"]) for one in values("compute_score", two)] == [(0.0, 40.0)] * 2
    assert [(one.total, one.format) for one in values("overall", two)] == [(1.0, 1.0), (0.0, 1.0)]


def test_a_module_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards_here.py").write_text("def f(completion, sample):\n    return 0.25\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert totals(UserReward("my_rewards_here.f", RewardConfig())(batch("5"))) == [0.25]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("reward", "give package.module.name or path/to/file.py:name"),
        ("no_such_module.f", "No module named 'no_such_module'"),
        ("none.py:f", "no file none.py"),
        ("json.nothing", "has no 'nothing'; it has .*dumps"),
        ("a.txt:f", "give package.module.name"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(path, "data.tasks.ocr.reward")
    assert str(caught.value).startswith("data.tasks.ocr.reward is ")
    assert "\n" not in str(caught.value)


def test_a_module_that_fails(write: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"cannot be imported \(ZeroDivisionError: division by zero\)"):
        load(write("1 / 0"), "reward")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(text): pass", r"f\(text\) fits none of the accepted signatures; accepted: f\(completion, sample\)"),
        ("def f(**columns): pass", "fits none"),
        ("def f(completions, completion, sample): pass", "fits two"),
        ("def f(completion, sample, temperature): pass", "asks for 'temperature', which is not given to it; give it a"),
        ("def f(completions, trainer_state): pass", "asks for 'trainer_state'"),
        ("def f(reward_inputs, max_response_length): pass", "asks for 'max_response_length'"),
        ("def f(solution_str, ground_truth, tokenizer): pass", "asks for 'tokenizer'"),
        ("REWARD_TYPE = 'both'\ndef f(reward_inputs): pass", "REWARD_TYPE of its module is 'both'"),
        ("f = 3", "is no function"),
    ],
)
def test_a_signature_that_is_not_accepted(source: str, said: str, write: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=said):
        UserReward(write(source), RewardConfig(), where="data.tasks.ocr.reward")


def test_what_each_form_is_given() -> None:
    seen: dict[str, Any] = {}
    full = batch("5", "6", prompts=["p", "q"], token_ids=[[1, 2, 3], [4]], images=[["i"], ["j"]])

    def own(completion: str, sample: Any, *, task: str, prompt: str, token_ids: Any, images: Any) -> None:
        seen["own"] = (completion, sample["level"], task, prompt, token_ids, images)

    adapt(own, "own").call(full.only([1]))
    assert seen["own"] == (wrapped("6"), 3, "math_reasoning", "q", [4], ["j"])

    def columns(prompts: Any, completions: Any, completion_ids: Any, level: Any, **rest: Any) -> None:
        seen["columns"] = (prompts, completions, completion_ids, level)
        seen["rest"] = rest

    adapter = adapt(columns, "columns")
    adapter.call(full)
    assert adapter.batched
    assert seen["columns"] == (["p", "q"], [wrapped("5"), wrapped("6")], [[1, 2, 3], [4]], [3, 3])
    assert seen["rest"]["solution"] == seen["rest"]["ground_truth"] == ["5", "5"]
    assert seen["rest"]["images"] == [["i"], ["j"]]

    def sequential(reward_input: Any) -> None:
        seen["easyr1"] = reward_input

    adapter = adapt(sequential, "sequential")
    adapter.call(full.only([0]))
    assert not adapter.batched
    given = seen["easyr1"]
    assert (given["response"], given["response_length"], given["ground_truth"]) == (wrapped("5"), 3, "5")
    assert (given["task_type"], given["level"]) == ("math_reasoning", 3)

    def verl(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> None:
        seen["verl"] = (data_source, solution_str, ground_truth, extra_info["level"])

    adapt(verl, "verl").call(full.only([0]))
    assert seen["verl"] == ("sums", wrapped("5"), "5", 3)


def test_a_class_is_made_and_called() -> None:
    class Mine:
        def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return [0.5] * len(completions)

    assert adapt(Mine, "Mine").call(batch("5", "6")) == [0.5, 0.5]

    class Waiting:
        async def __call__(self, completion: str, sample: Any) -> float:
            return 0.5

    assert adapt(Waiting, "Waiting").is_async


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        kind = {"a": "batch", "b": "sequential"}[folder]
        (tmp_path / folder / "mine.py").write_text(f"REWARD_TYPE = {kind!r}\ndef f(inputs):\n    pass\n")
    first, second = (load(f"{tmp_path / folder / 'mine.py'}:f", "reward") for folder in ("a", "b"))
    assert [adapt(function, "f").batched for function in (first, second)] == [True, False]


def test_the_module_says_how_easyr1_is_called(write: Callable[[str], str]) -> None:
    one = UserReward(
        write("REWARD_TYPE = 'sequential'\ndef f(inputs):\n    return {'overall': len(inputs['response'])}"),
        RewardConfig(),
    )
    assert not one.adapter.batched


def test_a_column_that_no_row_has(write: Callable[[str], str]) -> None:
    reward = UserReward(write("def f(completions, level, shape):\n    return [0.0]"), RewardConfig())
    with pytest.raises(UserError, match=r"asks for the column 'shape', which no row has; the columns are .*level"):
        reward(batch("5"))


def test_exceptions_cost_one_completion_and_say_where(write: Callable[[str], str]) -> None:
    sources = (
        "def f(completion, sample):\n    return float('{}' not in completion) if 'bad' not in completion else 1 / 0",
        "def f(completions, **rest):\n    return [1.0 if 'bad' not in c else 1/0 for c in completions]",
        "async def f(completion, sample):\n    return 1.0 if 'bad' not in completion else 1/0",
    )
    for source in sources:
        path = write(source)
        where = f"{Path(path.rpartition(':')[0]).name}, line 2"
        found = UserReward(path, RewardConfig())(batch("1", "bad", "2"))
        assert totals(found) == [1.0, "ZeroDivisionError", 1.0]
        assert found[1] == Failure("ZeroDivisionError", f"division by zero ({where})")
        assert found[1].traceback.startswith("Traceback")
        assert "line 2, in f" in found[1].traceback
    for error in ("SystemExit(3)", "__import__('asyncio').CancelledError()"):
        leaves = UserReward(write(f"def f(completion, sample):\n    raise {error}"), RewardConfig())
        assert totals(leaves(batch("1"))) == [error.partition("(3")[0].rpartition(".")[2].removesuffix("()")]


@pytest.mark.parametrize("source", ["return [1.0]", "return 1.0", "return None"])
def test_a_batch_needs_as_many_values(source: str, write: Callable[[str], str]) -> None:
    values = UserReward(write(f"def f(completions):\n    {source}"), RewardConfig())(batch("1", "2"))
    assert totals(values) == ["bad_value"] * 2


def test_asynchronous_calls_wait_together_even_under_a_running_loop(write: Callable[[str], str]) -> None:
    waits = "import asyncio\nall = asyncio.Barrier(20)\nasync def f(completion, sample):\n    await all.wait()\n"
    reward = UserReward(write(waits + "    return 1.0"), RewardConfig())

    async def inside() -> list[Any]:
        return totals(reward(batch(*"abcdefghijklmnopqrst")))

    assert asyncio.run(inside()) == [1.0] * 20


def test_an_awaited_call_has_its_time(write: Callable[[str], str]) -> None:
    for source in ("async def f(completion, sample):", "async def f(completions):"):
        waits = f"import asyncio\n{source}\n    await asyncio.Event().wait()"
        assert totals(UserReward(write(waits), RewardConfig(), 0.2)(batch("1", "2"))) == ["timeout"] * 2


def test_it_runs_in_the_callers_thread(write: Callable[[str], str]) -> None:
    source = (
        "import threading as t\ndef f(completion, sample):\n    return float(t.current_thread() is t.main_thread())"
    )
    assert totals(UserReward(write(source), RewardConfig())(batch("1"))) == [1.0]


@pytest.mark.parametrize("value", ["Odd()", "[Odd()]", "{'total': Odd()}"])
def test_a_value_that_raises_on_being_looked_at(value: str, write: Callable[[str], str]) -> None:
    odd = "class Odd:\n    def __getattr__(self, name):\n        raise OSError('gone')\n"
    odd += "    def __repr__(self):\n        raise OSError('gone')\n"
    path = write(odd + f"def f(completion, sample):\n    return {value}")
    assert totals(UserReward(path, RewardConfig())(batch("1"))) == ["OSError"]


def outcome(value: Any) -> Any:
    return read_outcome(value, wrapped("5"), RewardConfig())


def test_values_that_are_scores() -> None:
    for value in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), {"score": 0.5}, {"overall": 0.5}):
        result = outcome(value)
        assert (result.total, result.accuracy, result.format, result.error) == (0.5, 0.5, 1.0, None)
    assert outcome(True).total == 1.0
    parts = outcome({"total": 0.8, "accuracy": 0.7, "format": 0.0, "overlong": -3.0, "pred": "text"})
    assert (parts.total, parts.accuracy, parts.format) == (0.8, 0.7, 0.0)
    assert parts.components == {"overlong": -3.0, "accuracy": 0.7, "format": 0.0, "structure": 0.0}
    ready = RewardResult(0.3, 0.2, 1.0, 0.0, {"accuracy": 0.2}, None, 0.0)
    assert (outcome(ready).total, outcome(ready).accuracy) == (0.3, 0.2)
    assert ready.failure is outcome(0.5).failure is None
    assert outcome(None).error == "not_applicable"
    assert outcome(None).failure


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (math.nan, "not_finite"), (math.inf, "not_finite"), ({"score": 0.5, "part": math.nan}, "not_finite"),
        (1.5, "out_of_range"), (-1, "out_of_range"), ({"overall": 0.5, "accuracy": -1.0}, "out_of_range"),
        ("0.5", "bad_value"), ([0.5], "bad_value"), ({"reward": 0.5}, "bad_value"), (torch.ones(2), "bad_value"),
        (object(), "bad_value"), (1j, "bad_value"),
    ],
)  # fmt: skip
def test_values_that_are_failures(value: Any, code: str) -> None:
    assert outcome(value).code == code


def trl_accuracy(completions: list[list[dict[str, str]]], solution: list[str], **kwargs: Any) -> list[float | None]:
    """Compare as TRL's own ``accuracy_reward`` takes its arguments."""
    contents = [completion[0]["content"] for completion in completions]
    return [float(f"<answer>{gold.strip('$')}</answer>" in text) for text, gold in zip(contents, solution, strict=True)]


def trl_format(completions: list[list[dict[str, str]]], **kwargs: Any) -> list[float]:
    """Match as TRL's own ``think_format_reward`` does."""
    pattern = r"^<think>(?!.*<think>)(.*?)</think>.*$"
    contents = [completion[0]["content"] for completion in completions]
    return [float(re.match(pattern, text, re.DOTALL | re.MULTILINE) is not None) for text in contents]


def test_rewards_of_trl_get_turns_where_the_prompt_is_turns() -> None:
    blocks = [{"type": "image"}, {"type": "text", "text": "2+3?"}]
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": blocks}]
    row = {"prompt": asked, "image": "a.png", "solution": "$5$", "task": "math_reasoning"}
    texts = ["<think>r</think><answer>5</answer>", "<thinking>r</thinking><answer>6</answer>"]
    for sample in (row, canonical(row)):
        chats = Batch(texts, [sample] * 2, ["math_reasoning"] * 2, prompts=["p", "p"])
        assert adapt(trl_accuracy, "accuracy").call(chats) == [1.0, 0.0]
        assert adapt(trl_format, "format").call(chats) == [1.0, 0.0]
    seen: dict[str, Any] = {}

    def columns(prompts: Any, completions: Any, **rest: Any) -> None:
        seen.update(prompts=prompts, completions=completions)

    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "<image>2+3?"}]
    for prompts in (["p", "p"], None):
        mixed = Batch(texts, [row, ROW], ["math_reasoning"] * 2, prompts=prompts)
        adapt(columns, "columns").call(mixed)
        assert seen["completions"] == [[{"role": "assistant", "content": texts[0]}], texts[1]]
        assert seen["prompts"] == [turns, "p" if prompts else None]


def test_rewards_of_ms_swift_get_texts_though_its_rows_are_turns() -> None:
    row = {"messages": [{"role": "user", "content": "2+3?"}], "solution": "5"}

    def swift(completions: list[str], solution: list[str], **rest: Any) -> list[float]:
        return [float(gold in text) for text, gold in zip(completions, solution, strict=True)]

    assert adapt(swift, "swift").call(Batch(["<answer>5</answer>"], [row], ["ocr"])) == [1.0]


@pytest.mark.skipif(not (CASES / "rows").exists(), reason="the cases are not on this machine")
def test_a_conversational_reward_of_the_cases() -> None:
    function = load(f"{CASES / 'rows' / 'rewards' / 'trl_conv.py'}:accuracy", "reward")
    row = {"prompt": [{"role": "user", "content": "2+3?"}], "solution": "5"}
    assert adapt(function, "f").call(Batch(["so 5", "so 6"], [row] * 2, ["ocr"] * 2)) == [1.0, 0.0]
