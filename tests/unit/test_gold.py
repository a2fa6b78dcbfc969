"""Why a gold answer cannot score 1, in one line."""

import json
from typing import Any

import pytest
from helpers.reward_cases import GOLD, LENIENT, SCORED, sample

from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.gold import gold_completion, gold_error


@pytest.mark.parametrize("problem_type", SCORED)
def test_good_rows_have_no_error(problem_type: str) -> None:
    for config in (LENIENT, RewardConfig(style="onethinker", open_ended="rouge_l", thinking_tag="think")):
        assert gold_error(sample(problem_type), config) is None
        assert gold_error(sample(problem_type, f"<answer> {GOLD[problem_type]} </answer>"), config) is None
        assert gold_error(sample(problem_type, f"\\boxed{{{GOLD[problem_type]}}}"), config) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem_type": "numerical", "answer": "many"},
         "'many' cannot be scored (bad_gold); it must be a plain number"),
        ({"problem_type": "numerical"}, "has no gold answer; give it in 'answer'"),
        ({"problem_type": "dance", "answer": "5"}, "unknown problem_type 'dance'; known: multiple choice, numerical"),
        ({"problem_type": "multiple choice", "answer": "D", "options": ["A. x", "B. y"]},
         "'D' cannot be scored (bad_gold); it must be the letter of one of its 2 options"),
        ({"problem_type": "multiple choice", "answer": "7"}, "it must be the letter of an option"),
        ({"problem_type": "spatial grounding", "answer": '{"boxes": [300, 100, 100, 300]}'},
         "it must be {\"boxes\": [x1, y1, x2, y2] on the 0..1000 grid, x1 < x2 and y1 < y2}"),
        ({"problem_type": "spatial grounding", "answer": '{"boxes": [30, 100, 1920, 300]}'}, "0..1000 grid"),
        ({"problem_type": "spatial grounding", "answer": '{"boxes": [0.1, 0.2, 0.5, 1.0]}'}, "holds fractions"),
        ({"problem_type": "GUI grounding", "answer": "[0.1, 0.2, 0.5, 0.6]"}, "holds fractions of the image"),
        ({"problem_type": "detection", "answer": '[{"bbox_2d": [0.1, 0.2, 0.5, 0.6], "label": "a"}]'}, "fractions"),
        ({"problem_type": "temporal grounding", "answer": '{"time": [20, 10]}'}, "start <= end"),
        ({"problem_type": "math", "answer": "7" * 600}, "cannot be scored (scores 0 against itself)"),
        ({"problem_type": "OCR", "answer": " "},
         "' ' cannot be scored (no_answer); it must be a text that is not empty"),
        ({"problem_type": "OCR", "answer": "a <thinking> b"}, "cannot be scored (no_answer)"),
        ({"problem_type": "document", "answer": '[""]'}, "is JSON, but no list of texts, none of them empty"),
        ({"problem_type": "code", "answer": "x"},
         "'code' has no built-in reward: name one in data.tasks.<task>.reward"),
        ({"problem_type": "open-ended", "answer": "x"}, "or set model.reward.open_ended to rouge_l"),
        ({"nothing": 1}, "no question"),
    ],
)  # fmt: skip
def test_bad_rows_say_what_would_be_right(row: dict[str, Any], message: str) -> None:
    error = gold_error(row)
    assert error is not None
    assert message in error
    assert "\n" not in error
    assert len(error) < 400


def test_rows_that_cannot_be_scored_have_a_completion_all_the_same() -> None:
    assert gold_completion({"problem_type": "math"}) == "<thinking></thinking><answer></answer>"
    assert gold_completion({"problem_type": "dance", "answer": "5"}) == "<thinking></thinking><answer>5</answer>"


def test_moments_of_a_second_are_no_fractions_of_an_image() -> None:
    assert gold_error({"problem_type": "temporal grounding", "answer": '{"time": [0.1, 0.9]}'}) is None
    assert gold_error({"problem_type": "detection", "answer": "[]"}) is None


@pytest.mark.parametrize("kind", ["point grounding", "GUI grounding"])
def test_the_completion_of_a_region_is_a_point_in_it(kind: str) -> None:
    row = sample(kind, '{"polygon": [[0, 0], [900, 0], [900, 900], [800, 900], [800, 100], [0, 100]]}')
    text = gold_completion(row)
    x, y = json.loads(text.partition("<answer>")[2].removesuffix("</answer>"))["point_2d"]
    assert (0 <= x <= 900 and 0 <= y <= 100) or (800 <= x <= 900 and y <= 900)
    assert score(text, row).total == 1.0
