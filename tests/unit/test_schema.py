"""Rows of the user's data: what is accepted, and the message for what is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import RELEASED
from PIL import Image

from lit_g2rpo.data.files.json_rows import JsonRows, to_prompt
from lit_g2rpo.data.files.row_errors import check_row
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import TASKS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


class OneRow(list[dict[str, Any]]):
    """A file of one row."""

    name = "f.json"

    def place(self, index: int) -> str:
        return "f.json, row 3"


def checked(row: dict[str, Any], root: Path, answered: bool = True) -> dict[str, Any]:
    rows = OneRow([row])
    [(found, place)] = RowReader(root).read(rows, 0)
    check_row(found, place, TASKS, root, RewardConfig(), answered)
    return found


def json_rows(files: list[Path], root: Path) -> JsonRows:
    return JsonRows(files, RowReader(root), TASKS, RewardConfig())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    return tmp_path


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "problem_id": 1, "problem": "<image> What is it?", "data_type": "image", "problem_type": "multiple choice",
        "options": ["A. cat", "B. dog"], "data_source": "A-OKVQA", "answer": "<answer>B</answer>",
        "images": ["./images/a.png"], "task_type": "general_vqa_science_stem",
    }  # fmt: skip
    changed = base | changes
    return {key: value for key, value in changed.items() if value is not ...}


GROUNDING = {"problem_type": "spatial grounding", "task_type": "spatial_grounding", "options": []}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"answer": "dog"},
        {"options": [], "answer": "C"},
        {"problem": "What?", "images": [], "data_type": "text"},
        {"problem": "What?", "images": ..., "options": ..., "data_type": ..., "problem_type": "math", "answer": "\\pi"},
        {"problem_type": "math", "task_type": ..., "answer": "7"},
        {"problem": "<image><image>", "images": ["images/a.png", "images/../images/a.png"]},
        GROUNDING | {"answer": '{"boxes": [0, 0, 10, 10]}'},
    ],
)
def test_accepted(root: Path, changes: dict[str, Any]) -> None:
    accepted = checked(row(**changes), root)
    images = [Image.new("RGB", (8, 8))] * accepted["problem"].count("<image>")
    assert to_prompt(accepted, "3", images, RewardConfig()).task in TASKS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": ...}, "'problem' is empty; it must be a text"),
        ({"problem": 7}, "'problem' is 7; it must be a text"),
        ({"problem": ..., "problem_type": ..., "text": "What?"}, "no question: none of the columns problem, question"),
        ({"answer": True}, "'answer' is True; it must be a text, a number or JSON"),
        ({"answer": float("nan")}, "no answer; give it in 'answer'"),
        ({"answer": None}, "no answer; give it in 'answer'"),
        ({"demonstration": 3}, "'demonstration' is 3; it must be a text"),
        (
            {"problem_type": "multiple_choice"},
            "unknown problem_type 'multiple_choice'; known: multiple choice, numerical",
        ),
        ({"task_type": "gvqa"}, "unknown task_type 'gvqa'; known: spatial_grounding, .*; data.tasks adds one"),
        (
            {"task_type": ..., "data_source": "my own"},
            "no task_type, and neither data_source nor problem_type settles it; give one of spatial_grounding",
        ),
        ({"task_type": ["ocr"]}, r"unknown task_type \['ocr'\]; known"),
        ({"options": "A"}, "'options' is 'A'; it must be a list of texts"),
        ({"options": ["B. cat", "A. dog"]}, "'options' begin with B, A; they must begin with A, B, C"),
        ({"options": ["A. cat", "dog", "D. cow"]}, "'options' begin with A, D; they must begin with A, B, C"),
        ({"images": [1]}, "'images' holds 1; give paths, bytes or PIL images"),
        ({"images": ["https://x.org/a.png"]}, "'https://x.org/a.png' is an address of the web; save it in"),
        ({"data_type": "video", "videos": ["a.mp4"]}, "0 <video> in .problem. but 1 videos"),
        (
            {"options": ["A. cat", "B. <|image_pad|>"]},
            "<.image_pad.> in 'problem' or 'options' is a mark of another format",
        ),
        ({"images": []}, "1 <image> in 'problem' but 0 images"),
        ({"problem": "What?"}, "0 <image> in 'problem' but 1 images"),
        ({"images": ["images/b.png"]}, "no image file .*images/b.png; check 'images' and data.image_root"),
        ({"images": ["images"]}, "no image file"),
        ({"images": ["../a.png"]}, "'../a.png' lies outside data.image_root"),
        ({"images": ["images/../../a.png"]}, "lies outside data.image_root"),
        ({"images": ["/etc/passwd"]}, "'/etc/passwd' lies outside data.image_root"),
        ({"answer": "C"}, r"answer 'C' cannot be scored \(bad_gold\); it must be the letter of one of its 2"),
        ({"answer": "<answer>A or B</answer>"}, "it must be the letter of one of its 2 options"),
        ({"answer": ""}, "cannot be scored"),
        ({"problem_type": "numerical", "answer": "many"}, "it must be a plain number"),
        ({"problem_type": "OCR", "answer": "  "}, "it must be a text that is not empty"),
        (
            GROUNDING | {"answer": '{"boxes": [10, 0, 5, 10]}'},
            r"cannot be scored \(bad_gold\); it must be .*1000.* x1 < x2",
        ),
        (
            GROUNDING | {"answer": '{"boxes": [0, 0, NaN, 10]}'},
            r"cannot be scored \(bad_gold\); it must be .*1000.* x1 < x2",
        ),
        (
            GROUNDING | {"answer": '{"boxes": [0, 0, 2000, 10]}'},
            r"cannot be scored \(bad_gold\); it must be .*1000.* x1 < x2",
        ),
    ],
)
def test_refused(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^f.json, row 3: .*" + message) as caught:
        checked(row(**changes), root)
    assert "\n" not in str(caught.value)


def test_prompt_of_a_row() -> None:
    image = Image.new("RGB", (8, 8))
    sample = row(demonstration="<thinking>r</thinking><answer>B</answer>")
    prompt = to_prompt(sample, "f.json:3", [image], RewardConfig())
    assert (prompt.id, prompt.task, prompt.problem_type) == ("f.json:3", "general_vqa_science_stem", "multiple choice")
    assert prompt.images == [image]
    assert prompt.sample is sample
    assert prompt.demonstration == sample["demonstration"]
    assert [item["type"] for item in prompt.messages[0]["content"]] == ["image", "text"]


def test_rows_of_several_files(root: Path) -> None:
    (root / "one.json").write_text(json.dumps([row(problem_id=i) for i in range(3)]))
    (root / "two.jsonl").write_text(
        "\n".join(json.dumps(row(problem_type="math", task_type=..., data_source=..., answer=str(i))) for i in range(2))
    )
    rows = json_rows([root / "one.json", root / "two.jsonl"], root)
    assert rows.task_names() == ["general_vqa_science_stem"] * 3 + ["math_reasoning"] * 2
    assert [rows[i].id for i in range(len(rows))] == [
        "one.json:1",
        "one.json:2",
        "one.json:3",
        "two.jsonl:1",
        "two.jsonl:2",
    ]
    assert rows[3].images[0].size == (8, 8)


def test_the_file_and_row_of_a_mistake_are_named(root: Path) -> None:
    (root / "one.jsonl").write_text(json.dumps(row()) + "\n" + json.dumps(row(answer="Z")))
    with pytest.raises(UserError, match=r"one.jsonl, line 2: answer 'Z'"):
        json_rows([root / "one.jsonl"], root)
    (root / "none.jsonl").write_text("")
    with pytest.raises(UserError, match=r"none.jsonl: no rows"):
        json_rows([root / "none.jsonl"], root)


@pytest.mark.skipif(not RELEASED.exists(), reason="the released sample is not on this machine")
def test_the_released_rows_pass(tmp_path: Path) -> None:
    for sample in json.loads(RELEASED.read_text()):
        for name in sample["images"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / name)
    rows = json_rows([RELEASED], tmp_path)
    assert {name: rows.task_names().count(name) for name in TASKS} == dict.fromkeys(TASKS, 10)
    assert len(rows[0].images) == 1


def test_a_row_to_predict_needs_no_answer_but_a_given_one_is_checked(root: Path) -> None:
    assert "answer" not in checked(row(answer=...), root, answered=False)
    with pytest.raises(UserError, match=r"f\.json, row 3: no answer"):
        checked(row(answer=...), root)
    with pytest.raises(UserError, match="cannot be scored"):
        checked(row(answer="Q"), root, answered=False)
