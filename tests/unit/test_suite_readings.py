"""How the suites read free text: cases by hand from what their sources do, and what hostile text costs."""

import json
import time

import numpy as np
import pytest
from helpers.paths import CASES

from lit_g2rpo.evaluation import BENCHMARKS, Benchmark, Suite
from lit_g2rpo.evaluation.masks import encode_mask
from lit_g2rpo.evaluation.rows import verdict
from lit_g2rpo.evaluation.suite import suite_text
from lit_g2rpo.evaluation.suites.options import REFUSED, concluded_option, inferred_option
from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rows.canonical import canonical

OPTIONS = {"A": "red", "B": "green", "C": "dark blue", "D": "none of these"}
ROW = {"answer": "B", "options": [f"{letter}. {text}" for letter, text in OPTIONS.items()]}
BOX = '{"boxes": [0, 0, 500, 500]}'


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("{B}", "B"),
        ("B.", "B"),
        ("B:", "B"),
        ("**B**", "B"),
        ("# B #", "B"),
        ("Option B", "B"),
        ("The answer is B.", "B"),
        ("Answer: B", "B"),
        ("\\boxed{B}", "B"),
        ("B - green", "B"),
        ("B\n", "B"),
        ("I think it must be B, clearly so.", "B"),
        # alone in the last four words, or stated, or spelled
        ("B is right since the leaves are so", None),
        ("The correct answer is B. The leaves in the picture are neither red nor dark blue.", "B"),
        ("the answer is **c**, as the sky in this picture is of the darkest kind that there is", "C"),
        ("green", "B"),
        ("It is GREEN.", "B"),
        ("evergreen", "B"),
        ("red or green", None),
        ("A or B", None),
        ("not A but B", None),
        ("b", None),
        ("E", None),
        ('"B"', None),
        ("B?", None),
        ("$B$", None),
        ("<answer>B</answer>", None),
        ("", None),
        # the letter of the statement has no boundary, and any case
        ("The answer is a green one", "A"),
        ("the answer is dark blue", "D"),
        # two hundred characters of text are more than twice the options
        ("green " + "so it is " * 20, None),
        ("Z", REFUSED),
        ("Cannot determine the answer B", REFUSED),
    ],
)
def test_the_option_that_vlmevalkit_infers(text, letter):
    assert inferred_option(text, OPTIONS) == letter
    value = None if letter is None else float(letter == "B")
    assert BENCHMARKS["ai2d"].suite.read(text, ROW) == value
    assert BENCHMARKS["mmstar"].suite.read(text, ROW) == value


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("**B**", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("B. green", "B"),
        ("b) green", "B"),
        ("The answer is B", "B"),
        ("The answer is B.", "B"),
        ("final answer: b", "B"),
        ("Option B", "B"),
        # a line that lists an option is passed over
        ("Option B: green", None),
        ("A is red.\nB is green.\nSo it is\nC", "C"),
        ("A or B", None),
        ("I see A, but B\nmust be ruled out, so C", "C"),
        ("the answer is (d)", "D"),
        ("green", None),
        ("B" + "x", None),
        ("", None),
    ],
)
def test_the_option_that_vlmevalkit_finds_in_spatial_answers(text, letter):
    assert concluded_option(text) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", 1),
        ("Option B", 1),
        ("The answer is B.", 1),
        ("(A) or (B)", 1),
        ("(B) or (A)", 0),
        ("b", None),
        ("**B**", None),
        # as a text it must be longer than five words, and the last one named counts
        ("green", None),
        ("that must be red no it is green", 1),
    ],
)
def test_mmmu_is_read_without_a_guess(text, value):
    assert BENCHMARKS["mmmu"].suite.read(text, ROW) == value


def test_mmmu_reads_a_long_text_to_its_end():
    assert BENCHMARKS["mmmu"].suite.read("Let me think. " * 1000 + "\nSo the answer is 12", {"answer": "12"}) == 1
    assert BENCHMARKS["mmmu"].suite.read("1" * 40_000, {"answer": "12"}) is None


SIZED = {"answer": BOX, "width": 200, "height": 100}


@pytest.mark.parametrize(
    ("text", "row", "value"),
    [
        ("[0, 0, 500, 500]", {"answer": BOX}, 1),
        ("The box is [0, 0, 500, 500], or [9, 9, 10, 10].", {"answer": BOX}, 1),
        ("[0 0 500 500]", {"answer": BOX}, 1),
        ("(0, 0), (500, 500)", {"answer": BOX}, 1),
        ("[500, 500, 0, 0]", {"answer": BOX}, 1),
        ("[0, 0, 500, 250]", {"answer": BOX}, 0.5),
        ('```json\n[{"bbox_2d": [0, 0, 500, 500], "label": "a cat"}]\n```', {"answer": BOX}, 1),
        # parts of the image
        ("[0.0, 0.0, 0.5, 0.5]", {"answer": BOX}, 1),
        # the 2 of the key is a number where nothing stands in brackets
        ("bbox_2d: 0 0 500 500", {"answer": BOX}, 0.004),
        # pixels need a size; what overhangs is cut
        ("[0, 0, 1200, 1200]", {"answer": BOX}, None),
        ("[0, 0, 1200, 1200]", SIZED, 0.25),
        ("[0, 0, 500]", {"answer": BOX}, None),
        ("no box", {"answer": BOX}, None),
    ],
)
def test_refcoco_takes_the_first_box_of_the_text(text, row, value):
    assert BENCHMARKS["refcoco"].suite.read(text, row) == value


LEFT = encode_mask(np.array([[True, False]] * 2))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('[{"point_2d": [100, 100], "label": "x"}]', 1),
        ("at (100, 900)", 1),
        ("(100, 900) and [900, 100]", 0.5),
        # a full stop makes parts of the image of them
        ("(0.1, 0.5)", 1),
        ("(100.0, 900)", 0),
        ("(2000, 100)", 0),
        ("100, 900", None),
    ],
)
def test_refspatial_counts_every_pair_in_the_text(text, value):
    assert BENCHMARKS["refspatial"].suite.read(text, {"answer": BOX, "mask": LEFT}) == value


POLYGON = {"answer": '{"polygon": [[0, 0], [500, 0], [500, 500], [0, 500]]}'}


@pytest.mark.parametrize(
    ("text", "row", "value"),
    [
        ("Yes, it fits.", {"answer": "yes"}, 1),
        ("The answer is yes", {"answer": "yes"}, 0),
        ("Nothing fits", {"answer": "no"}, 1),
        ('```json\n[{"point_2d": [100, 100]}, {"point_2d": [900, 900]}]\n```', POLYGON, 1),
        ("[{'point_2d': (900, 900)}, {'point_2d': (100, 100)}]", POLYGON, 0),
        ('{"point": [0.1, 0.1]}', POLYGON, 1),
        ("It is (0.1, 0.1).", POLYGON, 1),
        # a tuple in free text is pixels
        ("It is (100, 100).", POLYGON, None),
        ("It is (50, 40).", POLYGON | {"width": 200, "height": 100}, 1),
        ("It is (150, 40).", POLYGON | {"width": 200, "height": 100}, 0),
        ("[100, 100]", POLYGON, None),
        ("nowhere", POLYGON, None),
    ],
)
def test_robospatial_takes_the_first_point(text, row, value):
    assert BENCHMARKS["robospatial"].suite.read(text, row) == value


@pytest.mark.parametrize(
    ("name", "text", "row", "value"),
    [
        ("chartqa", "12.3", {"answer": "12"}, 1),
        ("chartqa", "The answer is 12", {"answer": "12"}, 0),
        ("docvqa", "12 May", {"answer": '["12 may"]'}, 1),
        ("docvqa", "The date is 12 May", {"answer": '["12 may"]'}, 0),
        ("ocrbench", "The sign says HELLO there", {"answer": '["hello"]', "dataset": "IIIT5K"}, 1),
        ("ocrbench", "The sign says HELO there", {"answer": '["hello"]', "dataset": "IIIT5K"}, 0),
    ],
)
def test_short_texts_are_compared_whole(name, text, row, value):
    assert BENCHMARKS[name].suite.read(text, row) == value


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<thinking>A?</thinking><answer>B</answer>", "B"),
        ("<thinking>A?</thinking>Option B<|im_end|>", "Option B"),
        ("<think>A?</think>\n\nOption B", "Option B"),
        ("Option B", "Option B"),
        ("First A, then <answer>B</answer>", "B"),
        ("<thinking>it never ends, B", ""),
    ],
)
def test_the_suite_sees_what_stands_behind_the_reasoning(completion, text):
    assert suite_text(completion) == text


def test_the_tag_of_the_run_ends_the_reasoning():
    assert suite_text("<why>A</why>B", RewardConfig(thinking_tag="why")) == "B"


def test_an_answer_without_tags_counts_for_the_suite_alone():
    row = canonical(ROW | {"problem": "?", "problem_type": "multiple choice", "benchmark": "ai2d", "task_type": "x"})
    found = verdict("Option B", row, score("Option B", row))
    assert (found["score"], found["error"]) == (0.0, "no_answer")
    assert (found["suite_value"], found["suite_score"], found["suite_error"]) == (1.0, 1.0, None)
    tagged = "<thinking>t</thinking><answer>b</answer>"
    found = verdict(tagged, row, score(tagged, row))
    assert (found["score"], found["suite_score"], found["suite_error"]) == (1.0, 0.0, "unparsed")


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not there")
def test_choices_are_read_as_others_saw_vlmevalkit_read_them():
    lines = (CASES / "rewards" / "choice.jsonl").read_text().splitlines()
    cases = [case for case in map(json.loads, lines) if "vlmevalkit" in case]
    assert len(cases) > 10
    for case in cases:
        value = BENCHMARKS["ai2d"].suite.read(suite_text(case["completion"]), case["row"])
        assert (value or 0) == case["vlmevalkit"], case["completion"]


HOSTILE = [
    " " * 20_000, "*" * 20_000, "answer" + " " * 20_000 + "x", "[ " * 10_000, "A " * 10_000, "*A" * 10_000,
    "(  " * 8_000, "1" * 20_000, "[1" * 8_000, "[" + "1" * 20_000, "[1," + " " * 20_000, "(1," * 8_000, "-" * 4_000,
    "(" * 4_000, '{"a":' * 4_000, "[" + "9" * 400 + ", 1, 2, 3]", "(nan, inf)", '{"point_2d": ["nan", 1e999]}',
]  # fmt: skip


@pytest.mark.parametrize("form", ["({}) {}", "{}) {}", "{}: {}", "{}.{}"])
def test_options_are_read_by_their_text_whatever_marks_their_letters(form):
    row = {"answer": "B", "options": [form.format(letter, text) for letter, text in OPTIONS.items()]}
    assert BENCHMARKS["mmstar"].suite.read("It is a green one", row) == 1
    assert BENCHMARKS["mmmu"].value("in the end it is surely green", row) == 1


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if not BENCHMARKS[name].suite.judged])
def test_hostile_text_costs_little_and_raises_nothing(name):
    row = {"refspatial": {"answer": BOX, "mask": LEFT}, "robospatial": POLYGON, "chartqa": {"answer": "1"}}.get(
        name, ROW
    )
    row = {"answer": BOX} if name.startswith("refcoco") else row | {"dataset": "IIIT5K"}
    began = time.process_time()
    for text in HOSTILE:
        value = BENCHMARKS[name].suite.read(text, row)
        assert value is None or 0 <= value <= 1
    assert time.process_time() - began < 2


OWN = Benchmark("Own", "accuracy", lambda answer, row: 1.0, "any", "nowhere", Suite("mine", lambda text, row: 1 / 0))
ALONE = Benchmark("Alone", "accuracy", lambda answer, row: 1.0, "any", "nowhere")


@pytest.mark.parametrize(("name", "score_", "error"), [("OWN", 0.0, "ZeroDivisionError"), ("ALONE", None, "no_suite")])
def test_a_benchmark_from_outside_has_its_own_suite_or_none(name, score_, error):
    row = canonical({"problem": "?", "answer": "1", "benchmark": f"{__name__}.{name}", "task_type": "x"})
    text = "<thinking>t</thinking><answer>1</answer>"
    found = verdict(text, row, score(text, row))
    assert (found["score"], found["suite_score"], found["suite_error"]) == (1.0, score_, error)
