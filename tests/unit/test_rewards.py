"""Scores of completions: totals, error codes, and values by hand."""

import json

import pytest
from helpers.paths import RELEASED
from helpers.reward_cases import GOLD, accuracy, sample, wrapped

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import PROBLEM_TYPES, RewardConfig, score
from lit_g2rpo.rewards.answers.geometry import iou
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.text import character_accuracy, fold
from lit_g2rpo.rewards.rules.math import results_agree
from lit_g2rpo.rewards.rules.regression import mean_relative_accuracy


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
    assert score(wrapped("5"), {"problem_type": "numerical"}).error == "no_gold"
    assert score(wrapped("5"), {"problem_type": "numerical", "answer": True}).error == "bad_row"
    assert score(wrapped("5"), {"nothing": 1}).error == "bad_row"
    assert score(wrapped("5"), None).error is not None  # type: ignore[arg-type]
    assert score(None, sample("numerical")).error == "TypeError"  # type: ignore[arg-type]


def test_the_format_is_judged_without_a_gold_answer() -> None:
    for row in (
        {"problem": "1 + 1?", "problem_type": "math"},
        {"nothing": 1},
        {"problem_type": "dance", "answer": "5"},
    ):
        assert [score(text, row).format for text in (wrapped("5"), "5")] == [1.0, 0.0]
        assert score(wrapped("5"), row).total == pytest.approx(0.1)


def test_rows_of_other_formats_are_read() -> None:
    verl = {"prompt": [{"role": "user", "content": "1 + 1?"}], "reward_model": {"ground_truth": "2"}}
    assert score(wrapped("2"), verl).total == 1.0
    assert score(wrapped("5"), {"problem": "how many?", "problem_type": "counting", "answer": 5}).accuracy == 1.0


def test_the_first_six_problem_types_keep_their_order() -> None:
    first = ["multiple choice", "numerical", "regression", "OCR", "math", "spatial grounding"]
    assert list(PROBLEM_TYPES)[:6] == first
    assert list(PROBLEM_TYPES) == list(GOLD)


def test_tags_are_a_choice() -> None:
    config = RewardConfig(thinking_tag="think", answer_tag="final")
    assert score("<think>r</think><final>B</final>", sample("multiple choice"), config).total == 1.0
    assert score(wrapped("B"), sample("multiple choice"), config).total == 0.0
    assert score("<think>r</think><final>B</final>", sample("multiple choice")).total == 0.0


@pytest.mark.parametrize("tags", [("", "answer"), ("<think>", "answer"), ("a b", "answer"), ("answer", "answer")])
def test_tags_that_are_no_names(tags: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"model\.reward\.thinking_tag"):
        RewardConfig(*tags)


def test_short_reasoning_may_cost_the_format() -> None:
    config = RewardConfig(min_reasoning=3)
    for reasoning, form in (("", 0.0), ("ab", 0.0), ("abc", 1.0)):
        given = f"<thinking>{reasoning}</thinking><answer>B</answer>"
        assert score(given, sample("multiple choice"), config).format == form
    assert score("<thinking></thinking><answer>B</answer>", sample("multiple choice")).format == 1.0


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("B", 1.0), ("<thinking>A</thinking>\\boxed{B}", 1.0),
        ("<thinking>r</thinking>It is \\boxed{A} no \\boxed{B}", 1.0),
        ("<thinking>B</thinking>", 0.0), ("it is B", 0.0), ("<answer>A</answer>B", 0.0), ("B <answer>", 0.0),
        ("<thinking><answer>A</answer></thinking>B", 0.0),
    ],
)  # fmt: skip
def test_completions_without_an_answer_tag_may_be_graded_whole(completion: str, right: float) -> None:
    result = score(completion, sample("multiple choice"), RewardConfig(fallback="whole_response"))
    assert (result.accuracy, result.format) == (right, 0.0)
    assert right == 0.0 or score(completion, sample("multiple choice")).error == "no_answer"


@pytest.mark.parametrize(
    ("problem_type", "answer"),
    [
        ("multiple choice", "\\boxed{B}"), ("numerical", "\\boxed{40.33}"), ("regression", "$\\boxed{2.5}$"),
        ("math", "\\boxed{\\frac{1}{2}}"), ("counting", "\\boxed{7}"), ("counting", "seven"),
        ("spatial grounding", '```json\n[{"bbox_2d": [100, 100, 300, 300], "label": "dog"}]\n```'),
    ],
)  # fmt: skip
def test_native_shapes_are_read(problem_type: str, answer: str) -> None:
    assert accuracy(problem_type, answer) == 1.0


@pytest.mark.parametrize("answer", ["\\boxed{A} \\boxed{B}", "\\boxed{B", "\\boxed{A}\\boxed{B}", "A}\\boxed{B"])
def test_several_boxes_are_no_answer(answer: str) -> None:
    assert accuracy("multiple choice", answer) == 0.0


def test_transcriptions_are_compared_as_they_stand() -> None:
    row = {"id": "", "problem": "", "task_type": None, "options": [], "images": [], "data_source": ""}
    row |= {"problem_type": "OCR", "answer": "\\boxed{7}"}
    assert score(wrapped("\\boxed{7}"), row).accuracy == 1.0
    assert score(wrapped("7"), row).accuracy < 0.5
    assert accuracy("multiple choice", "B", "\\boxed{B}") == 1.0


def test_types_without_a_built_in_reward_say_so() -> None:
    assert score(wrapped("print(1)"), sample("code")).error == "no_reward"
    assert score(wrapped("a dog"), sample("open-ended")).error == "no_reward"


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
        ("1/0", "1"), ("1000001", "1000000"), ("minute", "hour"), ("b", "B"), ("", "7"),
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
