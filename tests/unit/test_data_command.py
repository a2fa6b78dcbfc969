"""``data check`` and ``data convert``, as a user runs them."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import RELEASED
from PIL import Image

from lit_g2rpo.cli.verbs.data import main
from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.readers import read_rows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.tasks import TASKS

ROW = {
    "problem": "<image> What is it?", "problem_type": "multiple choice", "options": ["A. cat", "B. dog"],
    "answer": "<answer>B</answer>", "images": ["a.png"], "task_type": "general_vqa_science_stem",
}  # fmt: skip
BOX = {"problem_type": "spatial grounding", "task_type": "spatial_grounding", "options": []}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save("a.png")
    noise.save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:700])
    return folder


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(*rows: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    write("rows.jsonl", *rows)
    return FileCheck(RowReader(Path()), TASKS, **options).run(["rows.jsonl"]).errors


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"images": ["none.png"]}, "image", "no image file .*none.png"),
        ({"images": ["cut.jpg"]}, "image", "cut.jpg: .*truncated"),
        ({"images": ["../a.png"]}, "image", "lies outside data.image_root"),
        ({"images": []}, "column", "1 <image> in 'problem' but 0 images"),
        ({"problem": "<image><image>"}, "column", "2 <image> in 'problem' but 1 images"),
        ({"answer": "C"}, "gold", "answer 'C' cannot be scored"),
        ({"options": ["B. cat", "A. dog"]}, "column", "'options' begin with B, A"),
        (BOX | {"answer": '{"boxes": [9, 0, 5, 9]}'}, "gold", "cannot be scored"),
        (BOX | {"answer": '{"boxes": [10, 20, 1500, 1900]}'}, "gold", "1000"),
        (BOX | {"answer": '{"boxes": [0.1, 0.2, 0.5, 0.9]}'}, "gold", "fractions"),
        ({"problem_type": "OCR", "answer": "", "options": []}, "gold", "cannot be scored"),
        ({"answer": None}, "column", "no answer"),
        ({"problem_type": "mcq"}, "column", "unknown problem_type 'mcq'"),
        ({"task_type": "vqa"}, "column", "unknown task_type 'vqa'"),
        ({"videos": ["a.mp4"]}, "column", "0 <video> in .problem. but 1 videos"),
    ],
)
def test_each_mistake_is_found_once_and_alone(changes: dict[str, Any], kind: str, message: str) -> None:
    sound = ROW | {"problem": "<image> Which?"}
    [(found_kind, found_message)] = found(sound, ROW | changes)
    assert found_kind == kind
    assert found_message.startswith("rows.jsonl, line 2: ")
    assert re.search(message, found_message)


def test_a_line_that_is_no_json_does_not_hide_the_others() -> None:
    write("rows.jsonl", ROW, ROW | {"answer": "Q"})
    Path("rows.jsonl").write_text('{"a": \n' + Path("rows.jsonl").read_text())
    report = FileCheck(RowReader(Path()), TASKS).run(["rows.jsonl", "none.jsonl"])
    assert [kind for kind, _ in report.errors] == ["row", "gold", "file"]
    assert report.rows == 3


def test_image_files_may_be_left_alone() -> None:
    rows = [ROW | {"images": ["none.png"]}, ROW | {"images": ["cut.jpg"]}]
    assert len(found(*rows)) == 2
    assert len(found(*rows, images="header")) == 1
    assert not found(*rows, images="ignore")


def test_the_table_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    box = ROW | BOX | {"answer": '{"boxes": [0, 0, 10, 10]}', "problem": "<image> Where?"}
    write("rows.jsonl", ROW, ROW, ROW | {"answer": "A"}, box, box | {"images": ["none.png"]})
    with pytest.raises(UserError, match=r"^1 error in 5 rows$"):
        main(["check", "rows.jsonl", "--json", "report.json", "--policy", "package:lit_g2rpo.mini/weights"])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert " ".join(lines[0].split()) == "task problem type rows images with errors mean tokens most tokens"
    assert lines[1].split()[:6] == ["general_vqa_science_stem", "multiple", "choice", "3", "3", "0"]
    assert lines[2].split()[:6] == ["spatial_grounding", "spatial", "grounding", "2", "2", "1"]
    assert "rows.jsonl, line 5: no image file" in out
    assert "rows.jsonl, line 2: the same row as rows.jsonl, line 1" in out
    assert "rows.jsonl, line 3: the same question with another answer as rows.jsonl, line 1" in out
    report = json.loads(Path("report.json").read_text())
    assert (report["rows"], report["error_counts"], len(report["warnings"])) == (5, {"image": 1}, 2)
    [vqa, grounding] = report["kinds"]
    assert (vqa["rows"], vqa["longest_prompt"], grounding["rows_with_errors"]) == (3, vqa["mean_prompt"], 1)
    with pytest.raises(UserError, match="errors in 5 rows"):
        main(["check", "rows.jsonl", "--policy", "package:lit_g2rpo.mini/weights", "--max_prompt_tokens", "20"])
    assert "tokens with its images; 20 are allowed" in capsys.readouterr().out


def test_sound_rows_pass(capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", {"text": "<image> What?", "answer": "5", "images": ["a.png"]})
    main(["check", "rows.jsonl", "--column", "problem=text", "--default", "task_type=mine", "--task", "mine"])
    assert capsys.readouterr().out.endswith("\n1 rows, no errors\n")


def test_files_by_pattern_and_turns_as_the_command_line_asks(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "<image>Which?"}]
    write("rows-1.jsonl", {"messages": turns, "images": ["a.png"], "solution": "5"})
    write("rows-2.jsonl", {"messages": turns[1:], "images": ["whole.jpg"], "solution": "5"})
    main(["check", "rows-*.jsonl"])
    assert capsys.readouterr().out.endswith("\n2 rows, no errors\n")
    main(["convert", "rows-*.jsonl", "all.jsonl"])
    main(["convert", "rows-*.jsonl", "bare.jsonl", "--turns", "question"])
    assert ["earlier_turns" in row for row in read_rows("all.jsonl")] == [True, False]
    assert ["earlier_turns" in row for row in read_rows("bare.jsonl")] == [False, False]
    main(["check", "all.jsonl", "--policy", "package:lit_g2rpo.mini/weights"])
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^1 error in 0 rows$"):
        main(["check", "none-*.jsonl"])
    assert "none-*.jsonl: no file fits this pattern" in capsys.readouterr().out


def test_the_options_that_messages_name_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", {"question": "What?", "answer": "5", "path": "a.png"})
    for option in (["--column", "images=path"], ["--column", "images="]):
        main(["check", "rows.jsonl", *option])
        assert capsys.readouterr().out.endswith("\n1 rows, no errors\n")
    with pytest.raises(UserError, match="1 error"):
        main(["check", "rows.jsonl"])
    assert "(--column images=path), or '--column images='" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: check|convert"),
        (["check"], "the following arguments are required: FILE"),
        (["check", "rows.jsonl", "--image_root", "none"], "--image_root none is not a folder"),
        (["check", "rows.jsonl", "--column", "problem"], "--column problem: give NAME=..."),
        (["check", "rows.jsonl", "--policy", "./none"], "none holds no config.json"),
        (["check", "rows.jsonl", "--policy", "x", "--images", "ignore"], "leave out --images ignore"),
        (["check", "rows.jsonl", "--max_pixels", "-3"], "--max_pixels: '-3' is not a whole number above 0"),
        (
            ["convert", "rows.jsonl", "/proc/out.jsonl"],
            "/proc/out.jsonl cannot be written (No such file or directory)",
        ),
        (["convert", "rows.jsonl", "out.json"], "give a name that ends in .jsonl"),
        (["convert", "rows.jsonl", "rows.jsonl"], "rows.jsonl exists; give another name"),
        (["convert", "rows.jsonl", "no/out.jsonl"], "no is not a folder"),
        (["convert", "none.jsonl", "out.jsonl"], "none.jsonl: No such file"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], message: str) -> None:
    write("rows.jsonl", ROW)
    with pytest.raises(UserError, match=re.escape(message)):
        main(words)


def test_convert_writes_the_canonical_rows_of_any_format(folder: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "<image>Find x."}], "images": [{"path": "a.png"}], "solution": "3"},
        {"problem": "Find it.", "image": "a.png", "solution": [0, 16, 32, 48], "normal_caption": "it"},
    ]
    Path("in.json").write_text(json.dumps(rows))
    main(["convert", "in.json", "out.jsonl"])
    out = read_rows("out.jsonl")
    assert [out[i] for i in range(2)] == [canonical(rows[0]), canonical(rows[1] | {"width": 64, "height": 64})]
    assert json.loads(out[1]["answer"]) == {"boxes": [0, 250, 500, 750]}
    main(["convert", "out.jsonl", "again.jsonl"])
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()
    main(["check", "out.jsonl"])


def test_convert_saves_images_that_have_no_file(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(buffer, "JPEG")
    rows = [{"problem": "<image>Find x.", "answer": "3", "images": [{"bytes": buffer.getvalue(), "path": None}]}] * 2
    datasets.Dataset.from_list(rows).to_parquet("in.parquet")
    main(["convert", "in.parquet", "out.jsonl"])
    [image] = Path("out_images").iterdir()
    assert image.read_bytes() == buffer.getvalue()
    assert image.suffix == ".jpeg"
    assert [read_rows("out.jsonl")[i]["images"] for i in range(2)] == [[str(image)]] * 2
    main(["check", "out.jsonl"])
    (folder / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"would be saved in elsewhere/out_images, outside --image_root out_images"):
        main(["convert", "in.parquet", "elsewhere/out.jsonl", "--image_root", "out_images"])


def test_convert_leaves_nothing_half_written(folder: Path) -> None:
    before = sorted(folder.iterdir())
    for bad, message in (({"foo": 1}, "line 2: no question"), (ROW | {"answer": True}, "line 2: 'answer' is True")):
        write("in.jsonl", ROW, bad)
        with pytest.raises(UserError, match=message):
            main(["convert", "in.jsonl", "out.jsonl"])
        assert sorted(folder.iterdir()) == sorted([*before, folder / "in.jsonl"])


@pytest.mark.skipif(not RELEASED.exists(), reason="the released sample is not on this machine")
def test_the_released_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(RELEASED), "--images", "ignore"])
    assert capsys.readouterr().out.endswith("60 rows, no errors\n")
    main(["convert", str(RELEASED), "out.jsonl"])
    assert [row["problem_id"] for row in read_rows("out.jsonl")] == [
        row["problem_id"] for row in json.loads(RELEASED.read_text())
    ]
