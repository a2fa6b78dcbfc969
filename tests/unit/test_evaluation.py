"""Rows of an evaluation: what is reported of a completion, and by which rule it counts."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.prompts import make_prompt

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.rows import extracted, row, settings, verdict
from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards import RewardResult, score
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rules.math import TimedOut
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig
from lit_g2rpo.tasks import Task

TEXT = "<thinking>a</thinking><answer>{}</answer>"
REWARD = RewardResult(1.0, 1.0, 1.0, 0.0, {}, None, 0.25)


def completion(answer, truncated=False):
    tokens = torch.arange(7)
    return Completion(tokens, tokens * 0.0, tokens * 0.0, TEXT.format(answer), truncated)


def with_sample(**columns):
    prompt = make_prompt("one", 1)
    return replace(prompt, sample={"problem_type": "OCR", "task_type": "ocr"} | columns)


def test_a_row_holds_what_scoring_again_takes():
    prompt = with_sample(answer="12", problem="?", images=[b"\x89"], width=3, blob=b"x", nan=float("nan"))
    entry = json.loads(json.dumps(row(4, 1, prompt, completion("12"), REWARD)))
    assert (entry["index"], entry["repeat"], entry["id"], entry["task"], entry["length"]) == (4, 1, "one", "ocr", 7)
    assert (entry["answer"], entry["gold"], entry["score"], entry["seconds"]) == ("12", "12", 1.0, 0.25)
    kept = {"problem": "?", "problem_type": "OCR", "task_type": "ocr", "answer": "12", "width": 3}
    assert entry["sample"] == kept
    again = score(entry["completion"], entry["sample"])
    assert again.accuracy == 1
    assert entry["benchmark"] is entry["value"] is entry["error"] is None


def test_the_hash_follows_the_prompt():
    first, same = (row(0, 0, make_prompt("a", 1), completion("1"), REWARD)["prompt_hash"] for _ in range(2))
    other = row(0, 0, make_prompt("a", 1, words=9), completion("1"), REWARD)["prompt_hash"]
    assert first == same != other


def test_a_row_without_gold_has_no_score():
    entry = row(0, 0, with_sample(), completion("12"), replace(REWARD, accuracy=0.0, error="no_gold"))
    assert entry["score"] is entry["accuracy"] is entry["error"] is None
    assert entry["format"] == 1.0


@pytest.mark.parametrize(
    ("columns", "answer", "expected"),
    [
        ({"benchmark": "chartqa", "answer": "20", "type": "human"}, "21", (1.0, 1.0, None)),
        ({"benchmark": "refcoco", "answer": '{"boxes": [0, 0, 10, 10]}'}, "[0]", (None, 0.0, "unparsed")),
        ({"benchmark": "refcoco", "answer": "?"}, "[0]", (None, 0.0, "bad_gold")),
        ({"benchmark": "chartqa", "answer": "20"}, "", (None, 0.0, "no_answer")),
        ({"benchmark": "ocrbench", "answer": "20"}, "20", (None, 0.0, "bad_gold")),
    ],
)
def test_a_benchmarks_rule_decides_over_the_reward(columns, answer, expected):
    wrong = replace(REWARD, accuracy=0.5, error="unparsed")
    found = verdict(TEXT.format(answer), columns, wrong)
    assert (found["value"], found["score"], found["error"]) == expected
    assert found["accuracy"] == 0.5


def test_a_time_out_is_told_apart(monkeypatch):
    def slow(answer, gold, **options):
        raise TimedOut("no result")

    monkeypatch.setattr("lit_g2rpo.evaluation.rules.results_agree", slow)
    found = verdict(TEXT.format("x"), {"benchmark": "mathverse", "answer": "x"}, REWARD)
    assert (found["score"], found["error"]) == (0.0, "timeout")


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(UserError, match="unknown benchmark 'x'"):
        verdict(TEXT.format("1"), {"benchmark": "x", "answer": "1"}, REWARD)


def test_the_answer_is_read_as_the_reward_reads_it():
    assert extracted("<think>a</think><answer>7</answer>", RewardConfig(thinking_tag="think")) == "7"
    assert extracted("so \\boxed{7}") is None
    assert extracted("so \\boxed{7}", RewardConfig(fallback="whole_response")) == "7"
    assert extracted("7", RewardConfig(fallback="whole_response")) == "7"


def module(checkpoint):
    return SimpleNamespace(
        trainer=SimpleNamespace(ckpt_path=checkpoint),
        policy_path="p",
        evaluation=EvaluationConfig(),
        rollout=RolloutConfig(),
        max_tokens=8,
        reward=RewardConfig(),
        judge=None,
        tasks={"a": Task("a", reward="m.f"), "b": Task("b")},
    )


def test_settings_know_the_checkpoint_by_its_content(tmp_path: Path):
    file = tmp_path / "last.ckpt"
    file.write_text("one")
    before = settings(module(file), "test")
    assert before["reward_functions"] == {"a": "m.f"}
    assert before["evaluation"]["temperature"] == 0.0
    assert settings(module(None), "test")["checkpoint"] is None
    file.write_text("other")
    assert settings(module(file), "test") != before
    json.dumps(before)
