"""Rows as people have them: every one of the shared cases is read right, or refused with what would be right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import CASES

from lit_g2rpo.data.files.file_check import FileCheck, Report
from lit_g2rpo.data.files.readers import read_rows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.scales import numbers
from lit_g2rpo.tasks import TASKS

ROWS = CASES / "rows"
pytestmark = pytest.mark.skipif(not ROWS.exists(), reason="the cases are not on this machine")

BOX = {"boxes": [100, 200, 400, 600]}
TWO = [[100, 200, 400, 600], [550, 300, 800, 800]]
MATHS, GROUNDING, POINTS = "math", "spatial grounding", "point grounding"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(ROWS)


# file, line: problem type, question, number of images, answer
READ: dict[tuple[str, int], tuple[str, str, int, Any]] = {
    ("f4_tokens.jsonl", 1): (MATHS, "<image>How many bars?", 1, 4),
    **{("p01_json_string.jsonl", n): (MATHS, "<image>How many bars?", 1, 4) for n in (1, 2, 3, 5, 6, 7, 8)},
    ("p02_swift_bbox_user.jsonl", 1): (MATHS, "<image>What is at [100, 200, 400, 600]?", 1, "a red box"),
    ("p02_swift_bbox_user.jsonl", 2): ("detection", "<image>Find the shape", 1, TWO),
    ("p02_swift_bbox_user.jsonl", 3): ("detection", "<image>Find the shape", 1, TWO),
    ("p02_swift_bbox_user.jsonl", 4): (GROUNDING, "<image>Find the red box", 1, BOX),
    ("p02_swift_bbox_user.jsonl", 5): (POINTS, "<image>Click the red box", 1, {"points": [[250, 400]]}),
    ("p02_swift_bbox_user.jsonl", 8): (GROUNDING, "<image>Find the red box", 1, BOX),
    ("p03_index_answers.jsonl", 3): ("multiple choice", "<image>Which?", 1, "A"),
    **{("p05_box_text.jsonl", n): (GROUNDING, "<image>Find the red box", 1, BOX) for n in (1, 2, 3, 4, 5, 7, 8)},
    ("p05_box_text.jsonl", 6): ("temporal grounding", "<image>When?", 1, {"time": [1, 2]}),
    **{("p09_image_columns.jsonl", n): (MATHS, "<image>How many bars?", 1, 4) for n in range(1, 7)},
    **{("p14_boxes.jsonl", n): (GROUNDING, "<image>Where is the red box?", 1, BOX) for n in (1, 2, 3, 7, 9, 10, 14)},
    ("p14_boxes.jsonl", 8): ("detection", "<image>Where is the red box?", 1, TWO),
    ("p15_fractions.jsonl", 1): (GROUNDING, "<image>Find the red box", 1, BOX),
    ("p15_fractions.jsonl", 2): (GROUNDING, "<image>Where?", 1, BOX),
    ("p16_chem_sqa.jsonl", 3): ("multiple choice", "<image>Which side is red?", 1, "A"),
    ("p16_chem_sqa.jsonl", 4): ("multiple choice", "<image>How many red?", 1, "B"),
    ("s04b_swift_ground.jsonl", 1): (GROUNDING, "<image>Find the red box in the image", 1, BOX),
    ("s04b_swift_ground.jsonl", 2): ("detection", "<image>Find the red box and the blue ball", 1, TWO),
    ("s07b_lf_alpaca.json", 1): (MATHS, "<image>How many shapes?", 1, 2),
    ("s07c_lf_multiturn.json", 1): (MATHS, "Which colour is the box?", 1, "red"),
    ("s11_coco.json", 1): ("detection", "<image>Find every object of these kinds: box.", 1, TWO[:1]),
    ("s13_mmmu.jsonl", 1): ("multiple choice", "<image> How many bars are shown?", 1, "B"),
    ("s16_grit.jsonl", 1): (
        GROUNDING, "<image>Draw the bounding box that corresponds to red box.", 1, BOX,
    ),
    ("s16b_qwen2_box.jsonl", 1): (GROUNDING, "<image>Where is the red box?", 1, BOX),
    ("s21_lmmr1.jsonl", 1): (MATHS, "<image>Find the base.", 1, "$12$"),
    ("s21b_lmmr1_prompt.jsonl", 1): (MATHS, "<image>Find the base.", 1, "$12$"),
    ("x_array.jsonl", 1): (MATHS, "<image>\nHow many shapes are there?", 1, 2),
    ("x_lines.json", 2): (MATHS, "<image>How many shapes?", 1, 2),
    ("x_wrapped.json", 1): (MATHS, "q", 0, 1),
}  # fmt: skip


def found(file: str, line: int, **options: Any) -> tuple[dict[str, Any], list[str]]:
    reader = RowReader(Path(), **options)
    [(row, place)] = reader.read(read_rows(file), line - 1)
    report = Report()
    FileCheck(reader, TASKS)._row(row, place, report, {})
    return row, [message for _, message in report.errors]


def same(text: str, answer: Any) -> bool:
    if not isinstance(answer, dict):
        return text == str(answer)
    value = json.loads(text)
    return value.keys() == answer.keys() and numbers(value) == pytest.approx(numbers(answer))


@pytest.mark.parametrize(("file", "line"), READ)
def test_read_right(file: str, line: int) -> None:
    kind, question, images, answer = READ[file, line]
    row, errors = found(file, line, defaults={"task_type": "general_vqa_science_stem"})
    assert not errors
    assert (row["problem_type"], row["problem"], len(row["images"])) == (kind, question, images)
    if kind == "detection":
        assert [box["bbox_2d"] for box in json.loads(row["answer"])] == [pytest.approx(box) for box in answer]
    else:
        assert same(row["answer"], answer)


def test_phrases_of_refer() -> None:
    row, errors = found("s12b_refcoco_refer.jsonl", 1)
    assert not errors
    assert json.loads(row["answer"]) == BOX


# file, line: what the message says is to be done, and the option that then reads it as that answer
REFUSED: dict[tuple[str, int], tuple[str, dict[str, Any], Any]] = {
    ("f4_tokens.jsonl", 2): ("<|endoftext|> in 'problem' or 'options'", {}, None),
    ("f4_tokens.jsonl", 3): ("<|vision_start|> in 'problem' or 'options'", {}, None),
    ("p03_index_answers.jsonl", 1): ("--default answer_as=index", {"defaults": {"answer_as": "index"}}, "B"),
    ("p03_index_answers.jsonl", 2): ("--default answer_as=index", {"defaults": {"answer_as": "number"}}, "A"),
    ("p09_image_columns.jsonl", 7): ("--column images=path", {"columns": {"images": "path"}}, "4"),
    ("p14_boxes.jsonl", 4): ("--default bbox_type=norm1000", {"defaults": {"bbox_type": "norm1000"}}, BOX),
    ("p14_boxes.jsonl", 11): ("--default bbox_type=real", {"defaults": {"bbox_type": "real"}}, BOX),
    ("p14_boxes.jsonl", 13): ("--default bbox_type=real", {"defaults": {"bbox_type": "real"}}, BOX),
    ("s09_qwen_ground.json", 1): ("--default bbox_type=real", {"defaults": {"bbox_type": "real"}}, BOX),
    ("s15_qwen_file_url.jsonl", 1): ("lies outside data.image_root", {}, None),
    ("s18_guir1.jsonl", 1): ("data.columns.answer (--column answer=", {"columns": {"answer": "gt_bbox"}}, BOX),
    ("p11_image_values.jsonl", 5): ("'images' holds null for an image", {}, None),
    ("p11_image_values.jsonl", 6): ("'images' holds an empty text", {}, None),
    ("x_pyrepr.jsonl", 1): ("not valid JSON", {}, None),
}


@pytest.mark.parametrize(("file", "line"), REFUSED)
def test_refused_with_what_would_be_right(file: str, line: int) -> None:
    said, options, answer = REFUSED[file, line]
    try:
        messages = found(file, line)[1]
    except UserError as error:
        messages = [str(error)]
    assert any(said in message for message in messages), messages
    assert not any("\n" in message for message in messages)
    if options:
        assert same(found(file, line, **options)[0]["answer"], answer)


@pytest.mark.parametrize(
    "file", sorted(path.name for path in ROWS.glob("*.json*") if path.name != "rows_data_check.jsonl")
)
def test_every_row_is_read_or_refused_in_one_line(file: str) -> None:
    rows = read_rows(file)
    for index in range(len(rows)):
        try:
            read = RowReader(Path()).read(rows, index)
        except UserError as error:
            message = str(error)
        else:
            message = f"{file}, line {index + 1}"
            assert not any("<|im_" in row["problem"] or "<bbox>" in row["problem"] for row, _ in read)
        assert re.fullmatch(rf"{file}, (line|row) {index + 1}\b[^\n]*", message)
