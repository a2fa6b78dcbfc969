"""The envelope and the strict readers of numbers, letters and boxes."""

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.rewards.answers.geometry import box
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.parse import envelope, last_boxed, unbox, unwrap
from lit_g2rpo.rewards.answers.structured import json_value, reals


@pytest.mark.parametrize(
    ("text", "answer", "well_formed"),
    [
        ("<thinking>r</thinking><answer>5</answer>", "5", True),
        ("  <thinking>\nr\n</thinking>\n\n<answer> 5 </answer>\n", "5", True),
        ("<thinking></thinking><answer>5</answer>", "5", True),
        ("<thinking>r</thinking><answer>5</answer><|im_end|>", "5", True),
        ("<thinking>r</thinking><answer>5</answer><|im_end|>\n<|endoftext|><|endoftext|>", "5", True),
        ("<thinking>r</thinking><answer>5</answer><|im_end|>5", "5", False),
        ("<thinking>r</thinking><answer></answer>", "", False),
        ("<thinking>r</thinking><answer>5</answer> so 5", "5", False),
        ("well <thinking>r</thinking><answer>5</answer>", "5", False),
        ("<thinking>r</thinking> hence <answer>5</answer>", "5", False),
        ("<thinking><answer>4</answer></thinking><answer>5</answer>", "5", False),
        ("<thinking>r</thinking><answer>4</answer><answer>5</answer>", "5", False),
        ("<thinking>r</thinking><answer>5</answer><answer>4", "5", False),
        ("<thinking>r</thinking><answer><answer>5</answer></answer>", "5", False),
        ("<thinking>r</thinking><thinking>r</thinking><answer>5</answer>", "5", False),
        ("<answer>5</answer>", "5", False),
        ("<answer>5</answer><thinking>r</thinking>", None, False),
        ("<thinking>r<answer>5</answer>", None, False),
        ("<answer>5</answer><thinking>r", None, False),
        ("<thinking>r</thinking><answer>5</answer><thinking>r", "5", False),
        ("<thinking>r</thinking><thinking>r<answer>5</answer>", None, False),
        ("<think>r</think><answer>5</answer>", "5", False),
        ("<thinking>r</thinking>5", None, False),
        ("<THINKING>r</THINKING><ANSWER>5</ANSWER>", None, False),
        ("</answer><answer>", None, False),
        ("", None, False),
    ],
)
def test_envelope(text: str, answer: str | None, well_formed: bool) -> None:
    parts = envelope(text)
    assert (parts.answer, parts.well_formed) == (answer, well_formed)


def test_envelope_counts_blocks_and_takes_other_tags() -> None:
    parts = envelope("<think>a</think><think>b</think><a>1</a><a>2</a>", "think", "a")
    assert (parts.reasoning, parts.answer, parts.reasoning_blocks, parts.answer_blocks) == ("a", "2", 2, 2)


@pytest.mark.parametrize(
    "text",
    [
        " " * 16_000,
        "<thinking>" + " " * 200_000,
        "<thinking>" * 20_000,
        "</thinking>" * 20_000,
        "<answer>" * 20_000,
        "<thinking>r</thinking>" + "<answer>x" * 20_000 + "</answer>",
        "<" * 200_000,
        "<|im_end|>" * 20_000,
        "<|endoftext|> " * 15_000,
    ],
)
def test_envelope_is_linear(text: str) -> None:
    start = time.process_time()
    assert not envelope(text).well_formed
    assert time.process_time() - start < 2


@given(st.lists(st.sampled_from(["<thinking>", "</thinking>", "<answer>", "</answer>", " ", "x"]), max_size=12))
def test_well_formed_has_one_reading(pieces: list[str]) -> None:
    parts = envelope("".join(pieces))
    tags = [piece for piece in pieces if piece.startswith("<")]
    if parts.well_formed:
        assert tags == ["<thinking>", "</thinking>", "<answer>", "</answer>"]
        assert parts.answer


def test_the_tail_is_what_follows_the_reasoning() -> None:
    assert envelope("<thinking>r</thinking>\n it is 5 <|im_end|>").tail == "it is 5"
    assert envelope("it is 5").tail == "it is 5"
    assert envelope("<thinking>5").tail == ""


@pytest.mark.parametrize(
    ("text", "inner", "unboxed"),
    [
        ("\\boxed{5}", "5", "5"), (" $\\boxed{ 5 }$ ", "5", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("it is \\boxed{5}", "5", None), ("\\boxed{4}\\boxed{5}", "5", None), ("\\boxed{5", None, None),
        ("5", None, None),
        ("\\boxed{5}}", "5", None), ("\\boxed{}", "", ""), ("\\boxed{\\boxed{5}}", "5", None), ("", None, None),
    ],
)  # fmt: skip
def test_boxed(text: str, inner: str | None, unboxed: str | None) -> None:
    assert last_boxed(text) == inner
    assert unbox(text) == (text if unboxed is None else unboxed)


def test_json_is_bounded_and_strict() -> None:
    assert json_value('{"a": [[[[[1]]]]]}') == {"a": [[[[[1]]]]]}
    assert json_value('{"a": [[[[[[1]]]]]]}') is None
    assert json_value("```json\n[1]\n```") == [1]
    for text in ("[1] [2]", "{'a': 1}", "[1,]", "[" * 100_000):
        assert json_value(text) is None


@pytest.mark.parametrize("text", ["[NaN]", "[Infinity]", "[-Infinity]", "[1e400]", f"[{'1' * 5000}]"])
def test_what_is_no_number_spoils_only_its_list(text: str) -> None:
    assert reals(json_value(text), 1, 0, math.inf) is None
    assert reals(json_value(f"[[1], {text}]")[0], 1, 0, 1) == (1,)


def test_a_key_that_stands_twice_has_no_value() -> None:
    value = json_value('{"a": [1], "b": 2, "a": [1]}')
    assert value.keys() == {"a", "b"}
    assert value["b"] == 2
    assert math.isnan(value["a"])


def test_reals() -> None:
    assert reals([1, 2.5], 2, 0, 3) == (1.0, 2.5)
    for value in (
        [1],
        [1, 2, 3],
        [1, 4],
        [-1, 2],
        [True, 1],
        ["1", 1],
        [float("nan"), 1],
        [10**400, 1],
        None,
        {"a": 1},
    ):
        assert reals(value, 2, 0, 3) is None


def test_unwrap() -> None:
    assert unwrap(" <answer> 5 </answer> ") == unwrap("5") == "5"
    assert unwrap("<answer>") == "<answer>"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("+3.50", Fraction(7, 2)), (".5", Fraction(1, 2)), ("5.", 5), ("1,234,567", 1234567),
        ("1e3", 1000), ("2.5E-1", Fraction(1, 4)), ("\u22125", -5), ("\uff15", 5), (" 7 ", 7),
    ],
)  # fmt: skip
def test_number(text: str, value: Fraction) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ".", "-", "nan", "inf", "1_000", "12,34", "1,2345", "1e400", "1e99999999", "\u0663", "0x10", "1 2", "5 m",
     "9**9**9", "99999999!", "1" * 65, "1" * 5000, "True", "1.2.3", "--5", "e5"],
)  # fmt: skip
def test_not_a_number(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"boxes": [1, 2, 300, 400.5]}', '{"boxes": [[1, 2, 300, 400.5]]}', '[{"bbox_2d": [1, 2, 300, 400.5]}]',
        '{"bbox_2d": [1, 2, 300, 400.5]}', '```json\n[{"bbox_2d": [1, 2, 300, 400.5], "label": "dog"}]\n```',
        '```\n{"boxes": [1, 2, 300, 400.5]}\n```',
    ],
)  # fmt: skip
def test_box(text: str) -> None:
    assert box(text) == (1, 2, 300, 400.5)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "1", "null", "[1, 2, 3, 4]", '{"boxes": [1, 2, 3]}', '{"boxes": [1, 2, 3, 4, 5]}',
        '{"boxes": ["1", "2", "3", "4"]}', '{"boxes": [false, false, true, true]}', '{"boxes": [0, 0, NaN, 5]}',
        '{"boxes": [0, 0, Infinity, 5]}', '{"boxes": [0, 0, 1e400, 5]}', '{"boxes": [-1, 0, 5, 5]}',
        '{"boxes": [0, 0, 1001, 5]}', '{"boxes": [5, 0, 5, 5]}', '{"boxes": [9, 0, 5, 5]}',
        '{"boxes": [0, 0, 9, 9], "boxes": [0, 0, 5, 5]}', '{"boxes": [0, 0, 5, 5], "more": 1}',
        '[{"bbox_2d": [0, 0, 5, 5]}, {"bbox_2d": [0, 0, 9, 9]}]', '{"boxes": [0, 0, 5, 5]} {"boxes": [0, 0, 9, 9]}',
        '{"boxes": [0, 0, 5, ' + "9" * 5000 + "]}", "[" * 100_000, '{"a":' * 100_000, "`" * 6, "```json```",
    ],
)  # fmt: skip
def test_not_a_box(text: str) -> None:
    start = time.process_time()
    assert box(text) is None
    assert time.process_time() - start < 2
