"""Scores of completions: values by hand, invariants, and input meant to break them."""

import concurrent.futures
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.rewards import PROBLEM_TYPES, score
from lit_g2rpo.rewards.geometry import iou
from lit_g2rpo.rewards.math import results_agree
from lit_g2rpo.rewards.numbers import number
from lit_g2rpo.rewards.regression import mean_relative_accuracy
from lit_g2rpo.rewards.text import character_accuracy, fold

RELEASED = Path(__file__).parents[2] / "shared" / "data" / "openvlthinker_v2_sample_train.json"

GOLD: dict[str, str] = {
    "multiple choice": "B",
    "numerical": "40.33",
    "regression": "2.5",
    "OCR": "The  quick brown fox",
    "math": "\\frac{1}{2}",
    "spatial grounding": '{"boxes": [100, 100, 300, 300]}',
}


def sample(problem_type: str, answer: str | None = None) -> dict[str, Any]:
    gold = GOLD[problem_type] if answer is None else answer
    return {"problem_type": problem_type, "answer": gold, "options": ["A. cat", "B. dog", "C. cow"]}


def wrapped(answer: str) -> str:
    return f"<thinking>so it is</thinking>\n<answer>{answer}</answer>"


def accuracy(problem_type: str, answer: str, gold: str | None = None) -> float:
    return score(wrapped(answer), sample(problem_type, gold)).accuracy


@pytest.mark.skipif(not RELEASED.exists(), reason="the released sample is not on this machine")
def test_released_rows_score_one_against_themselves() -> None:
    rows = json.loads(RELEASED.read_text())
    assert len(rows) == 60
    for row in rows:
        assert score(f"<thinking>r</thinking>{row['answer']}", row).total == pytest.approx(1.0), row


def test_total_is_accuracy_and_format() -> None:
    right = score(wrapped("B"), sample("multiple choice"))
    assert (right.total, right.accuracy, right.format, right.structure, right.error) == (1.0, 1.0, 1.0, 0.0, None)
    assert right.components == {"accuracy": 1.0, "format": 1.0, "structure": 0.0}
    assert score(wrapped("A"), sample("multiple choice")).total == pytest.approx(0.1)
    assert score("<answer>B</answer>", sample("multiple choice")).total == pytest.approx(0.9)


def test_gold_may_be_wrapped() -> None:
    assert accuracy("math", "7", "<answer> 7 </answer>") == 1.0


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        ("B", "no_answer"),
        ("<thinking><answer>B</answer></thinking>", "no_answer"),
        ("<thinking>r</thinking><answer></answer>", "no_answer"),
        (wrapped("A or B"), "unparsed"),
        (wrapped("B" * 600), "answer_too_long"),
        ("x" * 300_000, "completion_too_long"),
    ],
)
def test_errors_have_codes(completion: str, error: str) -> None:
    result = score(completion, sample("multiple choice"))
    assert (result.accuracy, result.error) == (0.0, error)


def test_bad_rows_never_raise() -> None:
    assert score(wrapped("5"), {"problem_type": "dance", "answer": "5"}).error == "unknown_problem_type"
    assert score(wrapped("5"), {"problem_type": "numerical", "answer": "many"}).error == "bad_gold"
    assert score(wrapped("5"), {"problem_type": "numerical"}).error == "KeyError"
    assert score(wrapped("5"), {"problem_type": [], "answer": "5"}).error == "TypeError"
    assert score(wrapped("5"), {"problem_type": "numerical", "answer": 5}).error == "AttributeError"


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("3", "3", True), ("3.0", "3", True), ("3.001", "3", False), ("1,000", "1000", True), ("12%", "12", True),
        ("0.12", "12%", False), ("40.33", "40.33", True), ("40.333", "40.33", True), ("40.34", "40.33", False),
        ("0.004", "0.001", False), ("1 2 3", "3", False), ("three", "3", False), ("-0", "0", True),
    ],
)  # fmt: skip
def test_numerical(answer: str, gold: str, right: bool) -> None:
    assert accuracy("numerical", answer, gold) == right


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("10", "10", 1.0), ("11", "10", 0.8), ("9", "10", 0.8), ("0.9", "1", 0.8), ("1.1", "1", 0.8), ("15", "10", 0.0),
        ("14.9", "10", 0.1), ("10.4", "10", 1.0), ("10.5", "10", 0.9), ("-10", "-10", 1.0), ("10", "-10", 0.0),
        ("0", "0", 1.0), ("0.01", "0", 1.0), ("0.3", "0", 0.4), ("1e300", "1", 0.0),
    ],
)  # fmt: skip
def test_mean_relative_accuracy(answer: str, gold: str, value: float) -> None:
    a, g = number(answer), number(gold)
    assert a is not None
    assert g is not None
    assert mean_relative_accuracy(a, g) == value
    scale = abs(g) or 1
    assert value == sum(abs(a - g) / scale < 1 - number(f"0.{t}") for t in range(50, 100, 5)) / 10  # type: ignore[operator]


def test_character_accuracy() -> None:
    assert character_accuracy("abcd", "abcd") == 1.0
    assert character_accuracy("abxd", "abcd") == 0.75
    assert character_accuracy("a  b\n", "a b") == 1.0
    assert character_accuracy("e\u0301", "\u00e9") == 1.0
    assert character_accuracy("\uff21\u3000\uff22", "A B") == 1.0
    assert character_accuracy("abcd" * 9, "abcd") == 0.0
    assert character_accuracy("", "abcd") == 0.0
    assert fold("x\u00b2") == "x\u00b2"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "7"), ("$7$", "7"), ("\\boxed{7}", "7"), ("7.", "7"), ("\\frac12", "1/2"), ("\\dfrac{1}{2}", "0.5"),
        ("-\\frac{1}{2}", "-0.5"), ("3 1/2", "3.5"), ("3\\frac{1}{2}", "7/2"), ("1,234", "1234"), ("1e3", "1000"),
        ("0.333333333", "1/3"), ("\u22125", "-5"), ("50\\%", "50%"), ("90\u00b0", "90^{\\circ}"), ("x + 1", "x+1"),
        ("Linear", "linear"), ("$$\\pi $$", "\\pi"), ("\\left(1, 2\\right)", "(1,2)"), ("\\text{yes}", "Yes"),
    ],
)  # fmt: skip
def test_results_agree(answer: str, gold: str) -> None:
    assert results_agree(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("8", "7"), ("1 2 3 4 5 6 7", "7"), ("7, 8, 9", "7"), ("7 or 8", "7"), ("8. No wait, 7", "7"), ("on", "no"),
        ("5}\\boxed{6", "6"), ("5}\\boxed{6", "5"), ("12", "12%"), ("10 m", "10 cm"), ("0.333", "1/3"),
        ("x2", "x\u00b2"), ("1/0", "1"), ("1000001", "1000000"), ("minute", "hour"), ("b", "B"), ("", "7"),
        ("7" * 600, "7" * 600),
    ],
)  # fmt: skip
def test_results_differ(answer: str, gold: str) -> None:
    assert not results_agree(answer, gold)


def test_iou() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert accuracy("spatial grounding", '[{"bbox_2d": [100, 100, 300, 300], "label": "dog"}]') == 1.0
    assert accuracy("spatial grounding", '{"boxes": [0, 0, 1000, 1000]}') == pytest.approx(0.04)


HOSTILE = [
    "9**9**9", "99999999!", "2**(10**9)", "(1+x)**99999", " " * 16_000, "[" * 100_000, '{"a":' * 100_000, "(" * 100_000,
    "<answer>" * 10_000, "<thinking>" * 10_000, "1" * 5000, "-" * 100_000, "\\frac{" * 80, "$" * 500, "\\boxed{" * 70,
    "1,1" * 160, "1e999999999", '{"boxes": [NaN, 0, 1, 1]}', '{"boxes": [true, 0, 5, 5]}', "\ud800", "\x00",
    "a\u0301" * 250, "\\text{" * 80 + "}" * 80, "1/" * 250, "```" * 150,
]  # fmt: skip


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_are_scored_at_once(problem_type: str, text: str) -> None:
    for completion in (wrapped(text), text, "<thinking>" + text, "<thinking>r</thinking><answer>" + text):
        start = time.process_time()
        result = score(completion, sample(problem_type))
        assert time.process_time() - start < 2
        assert result.accuracy < 0.2


@given(
    st.sampled_from(PROBLEM_TYPES),
    st.one_of(
        st.text(max_size=80), st.sampled_from(HOSTILE[:4] + list(GOLD.values())), st.from_regex(r"[-0-9.,/%e]{0,12}")
    ),
)
def test_invariants(problem_type: str, answer: str) -> None:
    result = score(wrapped(answer), sample(problem_type))
    again = score(wrapped(answer), sample(problem_type))
    for value in (result.total, result.accuracy, result.format):
        assert math.isfinite(value)
        assert 0 <= value <= 1
    assert result.total == pytest.approx(0.9 * result.accuracy + 0.1 * result.format)
    assert (result.total, result.error) == (again.total, again.error)
    if not answer.strip():
        assert result.accuracy == 0


@given(st.sampled_from(["numerical", "regression"]), st.decimals(-1e12, 1e12, allow_nan=False, places=4))
def test_a_number_scores_one_against_itself(problem_type: str, value: object) -> None:
    assert accuracy(problem_type, f"{value:f}", f"{value:f}") == 1.0


@given(st.text(min_size=1, max_size=60).filter(lambda text: fold(text) and "<" not in text))
def test_a_text_scores_one_against_itself(text: str) -> None:
    assert accuracy("OCR", text, text) == 1.0
    assert accuracy("math", text, text) in (0.0, 1.0)


def test_threads_agree() -> None:
    cases = [(wrapped(answer), sample(kind)) for kind in PROBLEM_TYPES for answer in GOLD.values()]
    alone = [score(*case).total for case in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda case: score(*case).total, cases * 5)) == alone * 5
