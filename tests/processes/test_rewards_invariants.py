"""What holds for every problem type: range, purity, bounded time, and input meant to break it."""

import concurrent.futures
import json
import math
import random
import time
from collections.abc import Iterable
from typing import Any

import pytest
from helpers.processes import Commands
from helpers.reward_cases import GOLD, LENIENT, SCORED, accuracy, result, sample, wrapped
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.rewards import PROBLEM_TYPES, RewardConfig, score
from lit_g2rpo.rewards.answers.text import fold
from lit_g2rpo.rewards.gold import gold_completion

ONETHINKER = RewardConfig(style="onethinker", open_ended="rouge_l", fallback="whole_response", dense=True)
SECONDS = 2.0
"""CPU time that a case may take; the slowest takes a tenth of a second. Algebra has limits of its own."""

HOSTILE = {
    "tower": "9**9**9", "factorial": "99999999!", "power": "2**(10**9)", "binomial": "(1+x)**99999",
    "latex tower": "9^9^9^9", "sums": "1+" * 250 + "1", "integrals": "\\int_0^1 " * 50 + "x", "blanks": " " * 16_000,
    "lists": "[" * 100_000, "closed lists": "[" * 2000 + "]" * 2000, "objects": '{"a":' * 100_000,
    "parentheses": "(" * 100_000, "few parentheses": "(" * 200 + ")" * 200, "answers": "<answer>" * 10_000,
    "thoughts": "<thinking>" * 10_000, "digits": "1" * 5000, "json digits": '{"boxes": [0, 0, 5, ' + "9" * 5000 + "]}",
    "minus signs": "-" * 100_000, "fractions": "\\frac{" * 80, "dollars": "$" * 500, "boxes": "\\boxed{" * 70,
    "commas": "1,1" * 160, "exponent": "1e999999999", "nan": '{"boxes": [NaN, 0, 1, 1]}', "words": "ab " * 1300,
    "booleans": '{"boxes": [true, 0, 5, 5]}', "surrogate": "\ud800", "zero": "\x00", "accents": "a\u0301" * 250,
    "texts": "\\text{" * 80 + "}" * 80, "slashes": "1/" * 250, "fences": "```" * 150, "signs": "+-" * 2000,
    "end tokens": "<|im_end|>" * 20_000, "numbers": "7 " * 20_000, "one word": "x" * 200_000, "tags": "<" * 200_000,
    "import": "__import__('os')", "infinity": '{"time": [0, Infinity]}', "huge": '{"time": [0, 1e400]}',
    "unclosed": "<answer>" + " " * 8000, "null": "null", "true": "true", "arabic": "\u0663", "rtl": "\u202e7",
    "many boxes": json.dumps([{"bbox_2d": [i, 0, i + 1, 1]} for i in range(400)]), "minus": "\u2212" * 400,
    "many points": json.dumps([[i % 1000, 0] for i in range(2000)]), "row of numbers": "1 2 3 4 5 6 7 8 9",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Load what is loaded when it is first needed, so that no case pays for it."""
    for kind in SCORED:
        score(gold_completion(sample(kind)), sample(kind), LENIENT)
    assert accuracy("math", "(x+1)^2", "x^2+2x+1") == 1.0


def slowest(cases: Iterable[tuple[str, dict[str, Any], RewardConfig]]) -> float:
    """Score hostile cases, none of which may earn anything, and return the seconds of the slowest."""
    longest = 0.0
    for case in cases:
        start = time.process_time()
        scored = score(*case)
        longest = max(longest, time.process_time() - start)
        assert 0 <= scored.accuracy < 0.2
        assert math.isfinite(scored.total)
    return longest


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_hostile_completions_are_scored_at_once(problem_type: str) -> None:
    row = sample(problem_type)
    cases = [
        case
        for text in HOSTILE.values()
        for case in (
            (wrapped(text), row, LENIENT),
            (text, row, ONETHINKER),
            ("<thinking>" + text, row, ONETHINKER),
            ("<thinking>r</thinking><answer>" + text, row, LENIENT),
        )
    ]
    assert slowest(cases) < SECONDS


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_hostile_gold_answers_are_scored_at_once(problem_type: str) -> None:
    gold = wrapped(GOLD[problem_type])
    assert slowest((gold, sample(problem_type, text), LENIENT) for text in HOSTILE.values()) < SECONDS


# what the released reward pays for, and what it is worth here: accuracy, format
HOLES: list[tuple[str, str, float, float]] = [
    ("multiple choice", "<thinking><answer>B</answer></thinking><answer>A</answer>", 0, 0),
    ("multiple choice", "<thinking>r</thinking><answer>B</answer><answer>A</answer>", 0, 0),
    ("multiple choice", "B", 0, 0),
    ("multiple choice", "<thinking>r</thinking><answer>B</answer><|im_end|>", 1, 1),
    ("multiple choice", "<thinking>r</thinking><answer>B</answer> and so on", 1, 0),
    ("multiple choice", "<think>r</think><answer>B</answer>", 1, 0),
    ("multiple choice", "<thinking></thinking><answer>B</answer>", 1, 1),
    ("multiple choice", wrapped("B. dog"), 1, 1),
    ("multiple choice", wrapped("A. dog"), 0, 1),
    ("spatial grounding", wrapped('[{"bbox_2d": [100, 100, 300, 300], "label": "x"}]'), 1, 1),
    ("spatial grounding", wrapped('```json\n{"boxes": [100, 100, 300, 300]}\n```'), 1, 1),
    ("spatial grounding", wrapped('{"boxes": ["100", "100", "300", "300"]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [false, false, true, true]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [0, 0, 9, 9], "boxes": [100, 100, 300, 300]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [NaN, 100, 300, 300]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [100, 100, 1e400, 300]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [300, 300, 100, 100]}'), 0, 1),
    ("spatial grounding", wrapped('{"boxes": [0, 0, 1000, 1000]}'), 0.04, 1),
    ("math", wrapped("1 2 3 4 5 6 7"), 0, 1),
    ("spatial-temporal grounding", wrapped('{"time": [8.5, 10.5], "boxes": {"10": [0, 0, 50, 50]}}'), 0.75, 1),
    ("detection", wrapped('[{"bbox_2d": [100, 100, 300, 300], "label": "dog"}]' + " []"), 0, 1),
]


@pytest.mark.parametrize(("problem_type", "completion", "right", "form"), HOLES)
def test_holes_of_the_released_reward_are_closed(problem_type: str, completion: str, right: float, form: float) -> None:
    for config in (RewardConfig(), RewardConfig(style="onethinker")):
        scored = score(completion, sample(problem_type, "7" if problem_type == "math" else None), config)
        assert (scored.accuracy, scored.format) == (pytest.approx(right), form)


def test_anagrams_and_units_are_no_equality() -> None:
    for answer, gold in (("on", "no"), ("silent", "listen"), ("BA", "AB"), ("minute", "hour"), ("5}\\boxed{6", "6")):
        assert accuracy("math", answer, gold) == 0.0


TEXTS = st.one_of(
    st.text(max_size=80),
    st.sampled_from(["9**9**9", "2**(10**9)", *GOLD.values()]),
    st.from_regex(r"[-0-9.,/%e ]{0,12}", fullmatch=True),
    st.from_regex(r'[\[\]{}",:0-9a-z ]{0,40}', fullmatch=True),
)


@given(st.sampled_from(PROBLEM_TYPES), TEXTS, st.sampled_from([LENIENT, ONETHINKER]))
def test_invariants(problem_type: str, answer: str, config: RewardConfig) -> None:
    scored, again = (result(problem_type, answer, config=config) for _ in "ab")
    assert 0 <= scored.accuracy <= 1
    assert scored.format in (0, 1)
    assert 0 <= scored.structure <= (0.5 if config is ONETHINKER else 0)
    assert scored.total == pytest.approx(0.9 * scored.accuracy + 0.1 * scored.format + scored.structure)
    assert scored.components == {"accuracy": scored.accuracy, "format": scored.format, "structure": scored.structure}
    assert (scored.total, scored.error) == (again.total, again.error)
    assert scored.error is None or scored.accuracy == 0
    if not answer.strip():
        assert (scored.accuracy, scored.error) == (0, "no_answer")


@given(st.sampled_from(PROBLEM_TYPES), TEXTS)
def test_any_gold_answer_is_safe(problem_type: str, gold: str) -> None:
    scored = result(problem_type, GOLD[problem_type], gold)
    assert 0 <= scored.accuracy <= 1
    assert math.isfinite(scored.total)


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=4))


@given(
    st.dictionaries(
        st.sampled_from(["problem", "problem_type", "answer", "options", "images", "task_type", "prompt", "solution"]),
        JSON,
    )
)
def test_any_row_is_safe(row: dict[str, Any]) -> None:
    scored = score(wrapped("1"), row)
    assert 0 <= scored.accuracy <= 1
    assert scored.error is not None or isinstance(row.get("answer", row.get("solution")), str | float | list)


@pytest.mark.parametrize("problem_type", SCORED)
def test_gold_scores_one_against_itself(problem_type: str) -> None:
    for config in (LENIENT, ONETHINKER):
        scored = score(gold_completion(sample(problem_type), config), sample(problem_type), config)
        assert (scored.accuracy, scored.format, scored.error) == (1.0, 1.0, None)


@given(st.sampled_from(["numerical", "regression", "chart", "scientific"]), st.decimals(-1e12, 1e12, places=4))
def test_a_number_scores_one_against_itself(problem_type: str, value: object) -> None:
    assert accuracy(problem_type, f"{value:f}", f"{value:f}") == 1.0


@given(st.text(min_size=1, max_size=60).filter(lambda text: fold(text) and "<" not in text and "[" not in text))
def test_a_text_scores_one_against_itself(text: str) -> None:
    assert accuracy("OCR", text, text) == accuracy("document", text, text) == 1.0
    assert accuracy("math", text, text) in (0.0, 1.0)


EDGES = st.tuples(*[st.integers(0, 999).map(lambda low: (low, low + 1)) | st.just((0, 1000))] * 2)
BOXES = EDGES.map(lambda edges: [edges[0][0], edges[1][0], edges[0][1], edges[1][1]])
SPANS = st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)).map(sorted)
PAIRS = st.tuples(st.floats(0, 1000), st.floats(0, 1000)).map(list)
THREE = st.lists(PAIRS, min_size=3, max_size=3)
SECOND_BOXES = st.dictionaries(st.integers(0, 99).map(str), BOXES, min_size=1, max_size=5)
STRUCTURED = {
    "spatial grounding": BOXES.map(lambda box: {"boxes": box}),
    "point grounding": st.one_of(BOXES.map(lambda box: {"boxes": box}), st.lists(PAIRS, min_size=1, max_size=4)),
    "GUI grounding": BOXES.map(lambda box: {"boxes": box}),
    "detection": st.lists(st.fixed_dictionaries({"bbox_2d": BOXES, "label": st.text(max_size=5)}), max_size=5),
    "segmentation": st.fixed_dictionaries(
        {"boxes": BOXES, "positive_points": THREE, "negative_points": THREE}, optional={"time": st.floats(0, 1e5)}
    ),
    "temporal grounding": SPANS.map(lambda span: {"time": span}),
    "spatial-temporal grounding": st.fixed_dictionaries({"time": SPANS, "boxes": SECOND_BOXES}),
    "tracking": SECOND_BOXES.map(lambda boxes: {"boxes": boxes}),
}


@given(st.data(), st.sampled_from(sorted(STRUCTURED)), st.sampled_from([LENIENT, ONETHINKER]))
def test_a_structure_scores_one_against_itself(data: st.DataObject, problem_type: str, config: RewardConfig) -> None:
    row = sample(problem_type, json.dumps(data.draw(STRUCTURED[problem_type])))
    # with a tag inside a label the completion has two answers
    if "<" not in row["answer"]:
        assert score(gold_completion(row, config), row, config).accuracy == 1.0


CASES = [(wrapped(answer), sample(kind)) for kind in PROBLEM_TYPES for answer in GOLD.values()]


def test_order_and_threads_do_not_matter() -> None:
    alone = [score(*case, LENIENT).total for case in CASES]
    order = random.Random(0).sample(range(len(CASES)), len(CASES))
    shuffled = {i: score(*CASES[i], LENIENT).total for i in order}
    assert [shuffled[i] for i in range(len(CASES))] == alone
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda case: score(*case, LENIENT).total, CASES * 3)) == alone * 3


def test_another_process_agrees(commands: Commands) -> None:
    program = (
        "import json, sys\n"
        "from lit_g2rpo.rewards import RewardConfig, score\n"
        "if __name__ == '__main__':\n"
        "    config = RewardConfig(open_ended='rouge_l')\n"
        "    print(json.dumps([score(*case, config).total for case in json.load(sys.stdin)]))\n"
    )
    found = json.loads(commands.python("-c", program, input=json.dumps(CASES)))
    assert found == [score(*case, LENIENT).total for case in CASES]


def test_rewards_need_no_torch(commands: Commands) -> None:
    program = (
        "import sys, lit_g2rpo.rewards.gold; print(sorted({'torch', 'scipy', 'numpy', 'sympy'} & set(sys.modules)))"
    )
    assert commands.python("-c", program).strip() == "[]"
