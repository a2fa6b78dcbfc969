"""Gold answers that are places: read in every spelling and on the right scale, or refused with what settles it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.rows.canonical import canonical

# of an image of 400 x 200
GRID = [100, 200, 400, 600]
PIXELS = [40, 40, 160, 120]
OTHER = [550, 300, 800, 800]
FRACTIONS = [0.1, 0.2, 0.4, 0.6]
ASKED = {"problem": "<image>Find the red box", "images": ["a.png"]}


class OneRow(list[dict[str, Any]]):
    name = "f.json"

    def place(self, index: int) -> str:
        return "f.json, row 3"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "b.png")
    return tmp_path


def read(root: Path, row: dict[str, Any], **options: Any) -> dict[str, Any]:
    [(found, _)] = RowReader(root, **options).read(OneRow([dict(row)]), 0)
    return found


def completion(answer: Any) -> str:
    return f"<thinking>.</thinking><answer>{json.dumps(answer)}</answer>"


ONE_BOX = {
    "list": GRID,
    "nested list": [GRID],
    "text": "[100, 200, 400, 600]",
    "texts": ["100", "200", "400", "600"],
    "own": '{"boxes": [100, 200, 400, 600]}',
    "own, Python": "{'boxes': [100, 200, 400, 600]}",
    "Qwen": {"bbox_2d": GRID},
    "Qwen, labelled list": [{"bbox_2d": GRID, "label": "red box"}],
    "Qwen, tagged": '<answer>\n{"bbox_2d": [100, 200, 400, 600]}\n</answer>',
    "fenced": '```json\n[{"bbox_2d": [100, 200, 400, 600], "label": "red box"}]\n```',
    "other keys": '{"bbox": [100, 200, 400, 600]}',
    "boxed": "\\boxed{[100, 200, 400, 600]}",
    "reasoned": "<think>a</think><answer>[100, 200, 400, 600]</answer>",
    "sentence": "The red box is at [100, 200, 400, 600].",
    "Qwen2-VL": "<|box_start|>(100,200),(400,600)<|box_end|>",
    "Qwen2-VL, named": "<|object_ref_start|>it<|object_ref_end|><|box_start|>(100,200),(400,600)<|box_end|>",
    "Qwen-VL": "<ref>red box</ref><box>(100,200),(400,600)</box>",
    "InternVL": "<ref>red box</ref><box>[[100, 200, 400, 600]]</box>",
    "DeepSeek-VL2": "<|ref|>red box<|/ref|><|det|>[[100, 200, 400, 600]]<|/det|>",
    "another mark": "<bbox>100 200 400 600</bbox>",
    "fractions": "[0.1, 0.2, 0.4, 0.6]",
    "fractions in marks": "<box>(0.1,0.2),(0.4,0.6)</box>",
}


@pytest.mark.parametrize("spelling", ONE_BOX)
def test_a_box_is_a_box_in_every_spelling(root: Path, spelling: str) -> None:
    row = read(root, ASKED | {"answer": ONE_BOX[spelling], "options": []})
    assert (row["problem_type"], row["task_type"]) == ("spatial grounding", "spatial_grounding")
    assert json.loads(row["answer"])["boxes"] == pytest.approx(GRID)
    assert canonical(row) is row
    # IoU of a box that ends a tenth sooner, counted by hand
    assert score(completion({"boxes": [100, 200, 370, 600]}), row).accuracy == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("answer", "kind", "right"),
    [
        ([GRID, OTHER], "detection", [{"bbox_2d": GRID}, {"bbox_2d": OTHER}]),
        (
            '{"boxes": [[100, 200, 400, 600], [550, 300, 800, 800]]}',
            "detection",
            [{"bbox_2d": OTHER}, {"bbox_2d": GRID}],
        ),
        ("<box>[[100,200,400,600],[550,300,800,800]]</box>", "detection", [{"bbox_2d": GRID}, {"bbox_2d": OTHER}]),
        (
            "<ref>a</ref><box>(100,200),(400,600)</box> and <ref>b</ref><box>(550,300),(800,800)</box>",
            "detection",
            [{"bbox_2d": GRID, "label": "a"}, {"bbox_2d": OTHER, "label": "b"}],
        ),
        ('[{"point_2d": [100, 200], "label": "x"}]', "point grounding", {"points": [[100, 200]]}),
        ('{"points": [[100, 200], [300, 400]]}', "point grounding", {"points": [[300, 400], [100, 200]]}),
        ("[[100, 200], [300, 400]]", "point grounding", {"points": [[100, 200], [300, 400]]}),
        ("<point>(100,200)</point>", "point grounding", {"points": [[100, 200]]}),
        ('{"polygon": [[100, 200], [200, 200], [200, 400]]}', "point grounding", {"points": [[180, 250]]}),
        ('{"coordinate": [100, 200]}', "point grounding", {"points": [[100, 200]]}),
        (
            '<tool_call>{"name": "computer", "arguments": {"action": "click", "coordinate": [100, 200]}}</tool_call>',
            "point grounding",
            {"points": [[100, 200]]},
        ),
        ('{"time": [1.0, 2.0]}', "temporal grounding", {"time": [1, 2]}),
        ({"time": [1, 2]}, "temporal grounding", {"time": [1, 2]}),
        ('{"boxes": {"1": [100, 200, 400, 600]}}', "tracking", {"boxes": {"1": GRID}}),
        (
            '{"time": [1, 2], "boxes": {"1": [100, 200, 400, 600]}}',
            "spatial-temporal grounding",
            {"time": [1, 2], "boxes": {"1": GRID}},
        ),
    ],
)  # fmt: skip
def test_other_places(root: Path, answer: Any, kind: str, right: Any) -> None:
    row = read(root, ASKED | {"answer": answer})
    assert row["problem_type"] == kind
    assert score(completion(right), row).accuracy == 1.0


@pytest.mark.parametrize(
    "row",
    [
        {"answer": "[1, 2, 3, 4]"},
        {"answer": [2, 3, 5, 7]},
        {"answer": "[30, 10, 20, 5]"},
        {"answer": "[-20, 30, 40, 50]"},
        {"answer": "(100, 200)"},
        {"answer": "[0, 90]"},
        {"answer": "[[1, 2], [3, 4]]"},
        {"answer": "[100, 200, 400, 600]", "images": [], "problem": "The first four?"},
        {"answer": "[100, 200, 400, 600]", "task_type": "math_reasoning"},
        {"answer": "[100, 200, 400, 600]", "data_source": "Geometry3K"},
        {"answer": "the set [12, 30, 40, 50] has mean 33"},
        {"answer": "[100, 200, 400, 600]", "problem_type": "math"},
    ],
)
def test_lists_that_answer_a_question_of_maths_are_no_boxes(root: Path, row: dict[str, Any]) -> None:
    assert read(root, ASKED | row)["problem_type"] == "math"


def test_options_are_chosen_not_pointed_at(root: Path) -> None:
    boxes = ["[100, 200, 400, 600]", "[550, 300, 800, 800]"]
    row = read(root, ASKED | {"options": boxes, "answer": boxes[0]})
    assert row["problem_type"] == "multiple choice"


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"solution": PIXELS}, {}),
        ({"solution": "[40, 40, 160, 120]"}, {}),
        ({"solution": "<answer>[40, 40, 160, 120]</answer>"}, {}),
        ({"solution": [PIXELS]}, {}),
        ({"solution": ["40", "40", "160", "120"]}, {}),
        ({"solution": FRACTIONS}, {}),
        ({"solution": {"bbox_2d": PIXELS}}, {"defaults": {"bbox_type": "real"}}),
        ({"answer": PIXELS}, {"defaults": {"bbox_type": "real"}}),
        ({"answer": {"bbox_2d": PIXELS}, "bbox_type": "real"}, {}),
        ({"answer": PIXELS, "problem_type": "spatial grounding"}, {"defaults": {"bbox_type": "real"}}),
        # 600 is below an image that is 200 high
        ({"solution": {"bbox_2d": GRID}}, {}),
        ({"bbox_2d": GRID}, {}),
        ({"bbox_2d": PIXELS, "bbox_type": "real"}, {}),
        ({"reward_model": {"ground_truth": GRID}}, {}),
        ({"reward_model": '{"ground_truth": "[100, 200, 400, 600]"}'}, {}),
        ({"solution": GRID}, {"defaults": {"bbox_type": "norm1000"}}),
    ],
)
def test_scales(root: Path, row: dict[str, Any], options: dict[str, Any]) -> None:
    found = read(root, ASKED | row, **options)
    assert found["problem_type"] == "spatial grounding"
    assert json.loads(found["answer"])["boxes"] == pytest.approx(GRID)


def test_what_settles_a_scale_counts_once_and_for_rows_in_this_shape_too(root: Path) -> None:
    row = read(root, ASKED | {"answer": PIXELS, "bbox_type": "real"})
    assert "bbox_type" not in row
    pixels = row | {"answer": json.dumps({"boxes": PIXELS})}
    assert json.loads(read(root, pixels, defaults={"bbox_type": "real"})["answer"])["boxes"] == pytest.approx(GRID)
    assert read(root, pixels)["answer"] == pixels["answer"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"solution": {"bbox_2d": PIXELS}}, "'solution' holds a box that may count pixels or the grid 0..1000; say"),
        ({"bbox_2d": PIXELS}, "'bbox_2d' holds a box that may count pixels .* .--default bbox_type=real. or norm1000"),
        ({"reward_model": {"ground_truth": PIXELS}}, "'reward_model.ground_truth' holds a box that may"),
        ({"solution": GRID}, "pixels lies outside its image of 400 x 200; .* .--default bbox_type=norm1000"),
        ({"answer": [100, 200, 1400, 1600]}, "'answer' holds a box beyond 1000; .*bbox_type=real"),
        ({"answer": GRID, "bbox_type": "pixels"}, "bbox_type 'pixels'; it must be one of real .pixels., norm1 "),
        ({"answer": PIXELS, "bbox_type": "norm1"}, "bbox_type is norm1, but .* goes beyond 0 to 1"),
        ({"answer": "<loc0100><loc0200><loc0400><loc0600> box"}, "<loc0100>, which is not read; write places as"),
        ({"answer": '<points x1="10" y1="20">x</points>'}, "which is not read"),
        ({"answer": "<|box_start|>(100,200)<|box_end|>"}, "is no box; it must hold x1, y1, x2, y2"),
        ({"answer": "[23, 29, 31, 37]"}, "may be a very small box or a list of numbers; say which: --default"),
        ({"answer": "[412, 603]"}, "may be a point, a span of time or an interval; say which: --default problem_type="),
    ],
)  # fmt: skip
def test_what_cannot_be_told_names_the_option_that_settles_it(root: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"^f.json, row 3: .*" + message) as caught:
        read(root, ASKED | row)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("GUI grounding", {"point_2d": [200, 300]}),
        ("point grounding", [{"point_2d": [200, 300]}]),
        ("detection", [{"bbox_2d": GRID}]),
        ("spatial grounding", {"boxes": GRID}),
    ],
)
def test_a_box_takes_the_form_of_the_type_that_the_row_names(root: Path, kind: str, right: Any) -> None:
    for answer in ("<|box_start|>(100,200),(400,600)<|box_end|>", "[100, 200, 400, 600]"):
        row = read(root, ASKED | {"answer": answer, "problem_type": kind, "task_type": "spatial_grounding"})
        assert row["problem_type"] == kind
        assert score(completion(right), row).accuracy == 1.0


def swift(user: str, assistant: str | None, boxes: Any, **objects: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}]
    turns += [{"role": "assistant", "content": assistant}] if assistant is not None else []
    return {"messages": turns, "images": ["a.png"], "objects": {"bbox": boxes, **objects}}


OTHER_PIXELS = [220, 60, 320, 160]
LABELLED = '[\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"},\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"}\n]'


@pytest.mark.parametrize(
    ("row", "question", "right"),
    [
        (
            swift("<image>Find the <ref-object>", "<bbox>", [PIXELS], ref=["red box"]),
            "<image>Find the red box",
            {"boxes": GRID},
        ),
        (
            swift("<image>Find the <ref-object>", LABELLED, [PIXELS, OTHER_PIXELS], ref=["shape"] * 3),
            "<image>Find the shape",
            [{"bbox_2d": GRID, "label": "shape"}, {"bbox_2d": OTHER, "label": "shape"}],
        ),
        (
            swift("<image><ref-object> and <ref-object>?", LABELLED, [PIXELS, OTHER_PIXELS], ref=["a", "b", "a", "b"]),
            "<image>a and b?",
            [{"bbox_2d": OTHER, "label": "b"}, {"bbox_2d": GRID, "label": "a"}],
        ),
        (
            swift("<image><ref-object> and <ref-object>?", LABELLED, [PIXELS, OTHER_PIXELS], ref=["a", "b"]),
            "<image>a and b?",
            [{"bbox_2d": OTHER, "label": "b"}, {"bbox_2d": GRID, "label": "a"}],
        ),
        (
            swift("<image>Find it", "<bbox><bbox>", [PIXELS, OTHER_PIXELS], ref=[]),
            "<image>Find it",
            [{"bbox_2d": OTHER}, {"bbox_2d": GRID}],
        ),
        (
            swift("<image>Find all <ref-object>", None, [PIXELS, OTHER_PIXELS], ref=["shape"]),
            "<image>Find all shape",
            [{"bbox_2d": OTHER, "label": "shape"}, {"bbox_2d": GRID, "label": "shape"}],
        ),
        (swift("<image>Click it", "<bbox>", [[100, 80]], ref=[]), "<image>Click it", {"points": [[250, 400]]}),
        (
            swift("<image>Find it", "<bbox>", [FRACTIONS], ref=[]),
            "<image>Find it",
            {"boxes": GRID},
        ),
        (
            swift("<image><image>Find it", "<bbox>", [[10, 20, 40, 60]], image_id=[1]) | {"images": ["a.png", "b.png"]},
            "<image><image>Find it",
            {"boxes": GRID},
        ),
    ],
)
def test_the_rows_of_ms_swift(root: Path, row: dict[str, Any], question: str, right: Any) -> None:
    found = read(root, row)
    assert found["problem"] == question
    assert score(completion(right), found).accuracy == 1.0
    written = read(root, row | {"objects": json.dumps(row["objects"])})
    assert written["answer"] == found["answer"], "the same objects as JSON text"


def test_a_box_in_the_question_is_written_out_on_the_grid(root: Path) -> None:
    found = read(root, swift("<image>What is at <bbox>?", "a red box", [PIXELS]))
    assert found["problem"] == "<image>What is at [100, 200, 400, 600]?"
    assert found["answer"] == "a red box"


def test_more_marks_than_boxes_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"hold 2 <bbox>, but 'objects' has 1 for them"):
        read(root, swift("<image>x", "<bbox> <bbox>", [PIXELS]))
    with pytest.raises(UserError, match="'objects' has 2 boxes but ref"):
        read(root, swift("<image>x", None, [PIXELS, OTHER_PIXELS], ref=["a", "b", "c"]))


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"options": ["red", "blue"], "answer": "0"}, "A"),
        ({"options": ["red", "blue"], "answer": 2}, "B"),
        ({"options": ["2", "1"], "answer": "0"}, "A"),
        ({"choices": ["left", "right"], "answer": 1}, "B"),
        ({"choices": ["0", "1", "2"], "answer": 1}, "B"),
        ({"options": ["3", "4", "5"], "answer": "4"}, "B"),
        ({"options": ["a", "b", "c"], "answer": "1", "answer_as": "index"}, "B"),
        ({"options": ["a", "b", "c"], "answer": "1", "answer_as": "number"}, "A"),
        ({"options": ["2", "1", "0"], "answer": "1", "answer_as": "text"}, "B"),
        ({"options": ["A. 2", "B. 1"], "answer": "1"}, "B"),
        ({"options": ["2", "1"], "answer": "B"}, "B"),
    ],
)
def test_numbers_beside_options(row: dict[str, Any], letter: str) -> None:
    found = canonical({"question": "Which?"} | row)
    for answer in "ABC":
        given = f"<thinking>.</thinking><answer>{answer}</answer>"
        assert score(given, found).accuracy == float(answer == letter)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"options": ["red", "blue"], "answer": "1"}, r"may be counted from 0 \(B\) or counted from 1 \(A\); say"),
        ({"choices": ["1", "2", "3"], "answer": 1}, r"from 0 \(B\) or the option's text \(A\); .*answer_as="),
        ({"options": ["a", "b"], "answer": "1", "answer_as": "x"}, "answer_as 'x'; it must be one of index"),
    ],
)  # fmt: skip
def test_a_number_that_may_be_place_or_text_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical({"question": "Which?"} | row)


@pytest.mark.parametrize(
    "answer",
    [
        "(100, 200, 400, 600)", "100, 200, 400, 600", "(100,200),(400,600)", "(100, 200) (400, 600)",
        [400, 600, 100, 200], "[100, 200, 30, 40]", [-5, 200, 400, 600], [100, 200, 100, 600], "[NaN, 200, 400, 600]",
    ],
)  # fmt: skip
def test_numbers_that_may_be_a_box_in_another_spelling_are_refused(root: Path, answer: Any) -> None:
    with pytest.raises(UserError, match="may be several numbers, or a box in another spelling; say which: --default"):
        RowReader(root).read(OneRow([ASKED | {"answer": answer}]), 0)
    assert canonical(ASKED | {"answer": answer, "problem_type": "math"})["problem_type"] == "math"


@pytest.mark.parametrize("answer", ["(100, 200, 400, 600)", "(100,200),(400,600)"])
def test_round_brackets_are_a_box_where_the_row_says_so(answer: str) -> None:
    row = canonical(ASKED | {"answer": answer, "problem_type": "spatial grounding"})
    assert json.loads(row["answer"]) == {"boxes": GRID}


@pytest.mark.parametrize("answer", ["1,234,567,890", "(1, 2), (3, 4)", "2, 3, 5, 7", "(12, 5, 30, 50)"])
def test_numbers_that_are_no_box_stay_mathematics(answer: str) -> None:
    assert canonical(ASKED | {"answer": answer})["problem_type"] == "math"
