"""Rows of other tables that could be read as something else without a word: refused in one line, or read right."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.readers import read_rows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.tasks import TASKS

SEEN = {"problem": "<image>Which one?", "images": ["a.png"], "answer": "7"}
ASKED = {"problem": "Which one?", "answer": "B", "task_type": "ocr"}
COCO: dict[str, list[Any]] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 300, "height": 200}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [30, 20, 120, 160]}],
    "categories": [{"id": 1, "name": "bar"}],
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a.png", "b.png"):
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    return tmp_path


def errors(root: Path, row: Any, suffix: str = "jsonl", **columns: str) -> list[str]:
    file = root / f"f.{suffix}"
    file.write_text(json.dumps(row) + "\n")
    return [message for _, message in FileCheck(RowReader(root, columns), TASKS).run([str(file)]).errors]


def test_two_columns_with_different_images_are_not_one_of_them(root: Path) -> None:
    row = SEEN | {"image": "b.png"}
    assert "'images' and 'image' hold different images" in errors(root, row)[0]
    assert errors(root, row, images="images") == errors(root, SEEN | {"image": "a.png"}) == []
    assert errors(root, SEEN | {"image": ""}) == []


@pytest.mark.parametrize(
    ("row", "images"),
    [
        ({"question": "<image 1>?", "image_0": "a.png", "image_1": "b.png"}, ["a.png", "b.png"]),
        ({"question": "<image 1>, then <image 0>", "image_0": "a.png", "image_1": "b.png"}, ["b.png", "a.png"]),
        ({"question": "<image 3>, then <image 2>", "image_2": "a.png", "image_3": "b.png"}, ["b.png", "a.png"]),
        ({"question": "<image 2>?", "image_1": None, "image_2": "b.png"}, ["b.png"]),
    ],
)
def test_a_mark_shows_the_image_of_the_column_with_its_number(row: dict[str, Any], images: list[str]) -> None:
    assert canonical(row | {"answer": "7"})["images"] == images


def test_an_image_deep_inside_a_column_is_found(root: Path) -> None:
    row = {"problem": "Which?", "answer": "7", "meta": {"a": {"b": {"c": {"d": {"e": "a.png"}}}}}}
    assert "'meta.a.b.c.d.e' holds one" in errors(root, row)[0]


@pytest.mark.parametrize(
    "question",
    [
        json.dumps(json.dumps([{"role": "user", "content": "Which?"}])),
        '[{"role": "user", "content": "Which?"},',
        "array([{'role': 'user', 'content': 'Which?'}], dtype=object)",
        "[{'content': 'Be short.', 'role': 'system'}\n {'content': 'Which?', 'role': 'user'}]",
        "[{'from': 'human', 'value': 'Which?'}",
    ],
)
def test_turns_as_a_text_that_cannot_be_read_are_no_question(root: Path, question: str) -> None:
    [error] = errors(root, {"prompt": question, "answer": "7", "images": ["a.png"]})
    assert "turns as a text" in error


@pytest.mark.parametrize("question", ['What is the role of "content": a key?', '{"value": 3}: which value?'])
def test_a_question_about_json_is_a_question(root: Path, question: str) -> None:
    assert errors(root, {"problem": question, "answer": "7"}) == []


@pytest.mark.parametrize(
    "text",
    [
        "<s>{}",
        "{}</s>",
        "<<SYS>>a<</SYS>>{}",
        "<start_of_image>{}",
        "[IMG]{}",
        "<\uff5cUser\uff5c>{}",
        "{} <loc_12>",
        "<IMAGE>{}",
    ],
)
def test_marks_of_other_templates_are_no_question(root: Path, text: str) -> None:
    [error] = errors(
        root,
        SEEN
        | {"problem": text.format("Which?") + "<image>" * ("</s>" not in text)}
        | ({"images": []} if "</s>" in text else {}),
    )
    assert "is a mark of another format" in error


def test_a_tag_that_the_question_is_about_is_no_mark(root: Path) -> None:
    assert errors(root, {"problem": "What do <s>x</s> and <loc> do in HTML?", "answer": "7"}) == []


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"option_a": "cat", "option_b": "dog"}, "option_a,option_b"),
        ({"optionB": "dog", "optionA": "cat"}, "optionA,optionB"),
        ({"opa": "cat", "opb": "dog"}, "opa,opb"),
        ({"A": "cat", "C": "dog"}, "A,C"),
        ({"candidates": ["cat", "dog"]}, "candidates"),
        ({"choice_list": "['cat', 'dog']"}, "choice_list"),
    ],
)
def test_options_in_a_column_that_is_not_read(root: Path, columns: dict[str, Any], named: str) -> None:
    [error] = errors(root, ASKED | columns)
    assert f"--column options={named}" in error
    assert errors(root, ASKED | columns, options=named) == []


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "Which? A. cat B. dog", "option_a": "cat", "option_b": "dog"},
        {"answer": "a cat", "candidates": ["a cat", "dog"]},
        {"a": 3, "b": 4},
        {"option_a": "cat"},
    ],
)
def test_columns_that_leave_nothing_out(root: Path, row: dict[str, Any]) -> None:
    assert errors(root, ASKED | row) == []


def test_a_history_that_is_no_exchange_is_not_left_out(root: Path) -> None:
    row = {"instruction": "Which?", "output": "7"}
    assert "'history' is ['a', 'b']" in errors(root, row | {"history": ["a", "b"]})[0]
    assert errors(root, row | {"history": "None"}) == errors(root, row | {"history": []}) == []


@pytest.mark.parametrize(
    "answer", ["\\boxed{7} or \\boxed{8}", "$\\boxed{7}$, $\\boxed{8}$", "\\boxed{7} and \\boxed{8}."]
)
def test_two_results_in_boxes_are_not_the_last(root: Path, answer: str) -> None:
    assert len(errors(root, {"problem": "Which?", "answer": answer})) == 1


def test_a_box_on_the_way_to_the_result_is_left_out() -> None:
    row = {"problem": "Which?", "solution": "First \\boxed{7}. And so we get \\boxed{8}."}
    assert canonical(row)["answer"] == "8"


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("annotations", {"bbox": [0.1, 0.1, 0.4, 0.8]}, "annotation 1: 'bbox' [0.1, 0.1, 0.4, 0.8] holds fractions"),
        ("annotations", {"image_id": [1]}, "annotation 1: its image_id or category_id is not in the file"),
        ("images", None, "two of COCO's images have the same id"),
        ("categories", None, "two of COCO's categories have the same id"),
    ],
)
def test_faults_of_coco(root: Path, table: str, change: dict[str, Any] | None, message: str) -> None:
    rows = [COCO[table][0] | change] if change else COCO[table] * 2
    [error] = errors(root, COCO | {table: rows}, "json")
    assert message in error
    assert errors(root, COCO, "json") == []
    assert len(read_rows(str(root / "f.json"))) == 1


@pytest.mark.parametrize("reply", ["<bbox><bbox>", "<ref-object><bbox> and <ref-object><bbox>"])
def test_boxes_of_a_reply_keep_their_labels(reply: str) -> None:
    asked = "<image>Find <ref-object> and <ref-object>" if reply == "<bbox><bbox>" else "<image>Find all"
    objects = {"ref": ["bar", "dog"], "bbox": [[30, 20, 150, 180], [60, 40, 90, 100]]}
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    row = canonical({"messages": turns, "images": ["a.png"], "objects": objects, "width": 300, "height": 200})
    assert row["problem_type"] == "detection"
    assert [(one["label"], one["bbox_2d"]) for one in json.loads(row["answer"])] == [
        ("bar", [100, 100, 500, 900]),
        ("dog", [200, 200, 300, 500]),
    ]


def test_a_box_that_no_mark_shows_is_not_left_out(root: Path) -> None:
    objects = {"ref": ["bar"], "bbox": [[30, 20, 150, 180], [60, 40, 90, 100]]}
    turns = [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    [error] = errors(root, {"messages": turns, "images": ["a.png"], "objects": objects})
    assert "its turns hold 1 <bbox>, but 'objects' has 2 boxes" in error
