"""Reporting rules on hand-made cases: what the benchmarks count, oddities included."""

import json
import random
import time

import numpy as np
import pytest

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.benchmarks import benchmark_error, benchmark_named
from lit_g2rpo.evaluation.masks import check_mask, encode_mask, share_in_mask
from lit_g2rpo.evaluation.mmmu import open_answer, option_letter
from lit_g2rpo.evaluation.text import anls, ocr_hit, relaxed_accuracy


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("abcd", ["abxx"], 0.5),
        ("abcd", ["axxx"], 0.0),
        ("Hello  World", ["hello world"], 1.0),
        ("12", ["<answer>12</answer>", "12"], 1.0),
        ("<answer>12</answer>", ["12"], 0.0),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
        # one character of eleven differs, but blanks make the texts twelve long
        ("hello  worlx", ["hello world"], 1 - 1 / 12),
    ],
)
def test_anls(answer, references, score):
    assert anls(answer, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("12", "12%", 0),
        ("12%", "0.12", 1),
        ("0", "0.0", 0),
        ("0", "0", 1),
        ("1,234", "1234", 0),
        ("2010", "1950", 1),
        ("nan", "nan", 0),
        ("Yes", "Yes.", 0),
        ("Yes", "yes", 1),
        ("100", "105", 1),
        ("100", "105.1", 0),
        ("-20", "-19", 1),
    ],
)
def test_relaxed_accuracy(gold, answer, right):
    assert relaxed_accuracy(answer, gold) == right


@pytest.mark.parametrize(
    ("answer", "reference", "dataset", "hit"),
    [
        ("The word is HELLO there", "hello", "IIIT5K", 1),
        ("a  b", "a b", "IIIT5K", 0),
        ("a\nb", "a b", "IIIT5K", 1),
        ("\uff21\uff22", "ab", "IIIT5K", 1),
        ("x ^ 2", "x^2", "HME100k", 1),
        ("X^2", "x^2", "HME100k", 0),
    ],
)
def test_ocr_hit(answer, reference, dataset, hit):
    assert ocr_hit(answer, [reference], dataset) == hit


OPTIONS = ["cat", "dog", "red fox", "owl"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) because (A) is wrong... no, (C)", "C"),
        ("first A then D", "D"),
        ("I believe that it is the red fox", "C"),
        ("it is an owl", None),
        ("b", None),
        ("**B**", None),
        ("", None),
    ],
)
def test_mmmu_options(answer, letter):
    assert option_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("the result is 3.14159", "3.14", 1),
        ("x = 1,234", "1234", 1),
        ("so it is a parabola", "parabola", 1),
        ("so it is 1e3", "1000", 1),
        ("7", "8", 0),
        ("cab", "a", 0),
        ("it is a", "a", 1),
    ],
)
def test_mmmu_open(answer, gold, right):
    assert open_answer(answer, [gold]) == right


def test_mmmu_open_refuses_long_text():
    assert open_answer("9" * 5000, ["9"]) is None


def test_masks_against_the_array():
    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = generator.integers(1, 30, 2)
        mask = generator.random((height, width)) < generator.random()
        column = json.loads(json.dumps(encode_mask(mask)))
        points = [tuple(point) for point in generator.integers(-50, 1100, (20, 2)).tolist()]
        hits = 0
        for x, y in points:
            i, j = int(y / 1000 * height), int(x / 1000 * width)
            hits += bool(0 <= i < height and 0 <= j < width and mask[i, j])
        assert share_in_mask(points, column) == hits / 20
    grey = np.array([[127, 128, 255, 0]], dtype=np.uint8)
    assert encode_mask(grey) == {"size": [1, 4], "runs": [1, 2, 1]}
    assert encode_mask(np.stack([grey, grey * 0], axis=-1)) == encode_mask(grey)
    assert encode_mask(grey == 127) == {"size": [1, 4], "runs": [0, 1, 3]}
    with pytest.raises(ValueError, match="runs of 3 pixels for a size of 1 x 4"):
        check_mask({"size": [1, 4], "runs": [3]})


MASK = encode_mask(np.pad(np.ones((50, 50), dtype=bool), ((0, 50), (0, 50))))
CHOICE = {"answer": "<answer>B</answer>", "options": ["A. cat", "B. dog"]}


@pytest.mark.parametrize(
    ("name", "row", "answer", "value"),
    [
        ("ai2d", CHOICE, "B", 1),
        ("ai2d", CHOICE, "dog", 1),
        ("ai2d", CHOICE, "\\boxed{B}", 1),
        ("ai2d", CHOICE, "A", 0),
        ("ai2d", CHOICE, "mouse", None),
        ("mmmu", CHOICE, "(B)", 1),
        ("mmmu", {"answer": '["4", "four"]', "options": []}, "it is four", 1),
        ("docvqa", {"answer": '["12 May", "12/5"]'}, "12 may", 1),
        ("chartqa", {"answer": "20"}, " 21 ", 1),
        ("ocrbench", {"answer": "abc", "dataset": "x"}, "xabcx", 1),
        ("refspatial", {"mask": MASK}, '[{"point_2d": [100, 100]}, {"point_2d": [900, 100]}]', 0.5),
        ("refspatial", {"mask": MASK}, "nowhere", None),
        ("robospatial", {"answer": "yes"}, "Yes, it is.", 1),
        ("robospatial", {"answer": "no"}, "yes", 0),
        ("robospatial", {"answer": '{"polygon": [[0, 0], [100, 0], [0, 100]]}'}, "[[10, 10], [900, 900]]", 1),
        ("robospatial", {"answer": '{"polygon": [[0, 0], [100, 0], [0, 100]]}'}, "[[900, 900], [10, 10]]", 0),
        ("refcoco", {"answer": '{"boxes": [0, 0, 100, 100]}'}, '[{"bbox_2d": [0, 0, 100, 50]}]', 0.5),
        ("refcoco", {"answer": '{"boxes": [0, 0, 100, 100]}'}, "[0, 0]", None),
        ("mathvista", {"answer": "B", "options": ["A. 12", "B. 145"]}, "146", 1),
        ("mathvista", {"answer": "1.2", "answer_type": "float", "precision": 1}, "1.24", 1),
        ("mathvista", {"answer": "7", "answer_type": "integer"}, "7.9", 1),
        ("mathvista", {"answer": "7", "answer_type": "integer"}, "seven", None),
        ("mathvista", {"answer": "[1, 2]", "answer_type": "list"}, "[1, 2]", 1),
        ("mathverse", CHOICE, "B", 1),
        ("mathvision", {"answer": "1/2", "options": []}, "0.5", 1),
        ("charxiv", {"answer": "Blue"}, "blue", 1),
        ("charxiv", {"answer": "10"}, "10.0", 1),
        ("charxiv", {"answer": "10"}, "10.1", 0),
    ],
)
def test_rule_of_a_benchmark(name, row, answer, value):
    assert BENCHMARKS[name].value(answer, row) == value


def test_a_threshold_turns_values_into_hits():
    refcoco = BENCHMARKS["refcoco"]
    assert [refcoco.score(value) for value in (0.5, 0.49, None)] == [1, 0, 0]
    assert BENCHMARKS["docvqa"].score(0.7) == 0.7


def test_the_registry_covers_the_papers_benchmarks():
    judged = {"mmbench", "mathvista", "mathverse", "mathvision", "charxiv"}
    assert len(BENCHMARKS) == 18
    assert {name for name, benchmark in BENCHMARKS.items() if benchmark.stands_in} == judged
    with pytest.raises(UserError, match="unknown benchmark 'chart'; known: mmmu"):
        benchmark_named("chart")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "A"}, None),
        ({"benchmark": "chartqa", "answer": "3", "type": "human"}, None),
        ({"benchmark": "chart", "answer": "3"}, "unknown benchmark 'chart'"),
        ({"benchmark": "chartqa", "answer": "3"}, "needs the columns answer, type; missing: type"),
        ({"benchmark": "chartqa", "answer": "3", "type": "machine"}, "'type' is 'machine'"),
        ({"benchmark": "refcoco", "answer": "3"}, "must be a box"),
        ({"benchmark": "robospatial", "answer": "maybe", "category": "context"}, "yes, no or a polygon"),
        ({"benchmark": "ai2d", "answer": "C", "options": ["A. x"]}, "names none of 'options'"),
        ({"benchmark": "docvqa", "answer": ""}, "'answer' is empty"),
        (
            {"benchmark": "refspatial", "answer": "[1, 1]", "mask": "m.png", "split": "unseen"},
            "'mask' is no mask",
        ),
        (
            {"benchmark": "mathvista", "answer": "x", "answer_type": "float", "precision": 1},
            "must be a number",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_told_at_load(row, message):
    error = benchmark_error(row)
    assert error is None if message is None else message in error


def test_rules_are_finite_and_bounded_on_noise():
    random.seed(0)
    rows = {
        "refspatial": {"mask": MASK},
        "robospatial": {"answer": '{"polygon": [[0, 0], [100, 0], [0, 100]]}'},
        **{name: {"answer": '{"boxes": [0, 0, 100, 100]}'} for name in ("refcoco", "refcoco_plus", "refcocog")},
        "mathvista": {"answer": "1.2", "answer_type": "float", "precision": 1},
        "ocrbench": {"answer": "abc", "dataset": "HME100k"},
    }
    long = [text * 30_000 for text in ("9", "[", "-", "is ", "(A)", " ", "1,", "9e")]
    noise = ["".join(random.choices('AB(). [],{}":0123456789eE-nan\\boxed', k=40)) for _ in range(300)]
    for name in BENCHMARKS.keys() - {"mathverse", "mathvision"}:
        row = rows.get(name, CHOICE)
        for answer in [*long, "1e999", "nan", *noise]:
            start = time.process_time()
            value = BENCHMARKS[name].value(answer, row)
            assert value is None or 0 <= value <= 1
            assert time.process_time() - start < 2
