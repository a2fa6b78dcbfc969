"""RefCOCO's published rows: a box in pixels and several phrases for it, each an evaluation sample of its own."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import CONFIGS
from PIL import Image

from lit_g2rpo.cli.verbs.data import main
from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.rewards.rows.canonical import canonical

DATA = CONFIGS / "data"
ASKED = "<image> Please provide the bounding box coordinate of the region this sentence describes: {}."
# of 640 x 480: x 64..320, y 120..360
PUBLISHED = {
    "question_id": "000000581857_7", "question": "Come up with a caption for the area circled.", "image": "a.png",
    "answer": ["the left dog", "dog lying down.", "brown one"], "bbox": [64.0, 120.0, 256.0, 240.0],
    "segmentation": [64.0, 120.0, 320.0, 360.0], "iscrowd": 0, "file_name": "COCO_train2014_000000581857_7.jpg",
}  # fmt: skip
BOX = [100.0, 250.0, 500.0, 750.0]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((640, 480), 90).convert("RGB").save("a.png")
    return tmp_path


def write(*rows: dict[str, Any]) -> str:
    Path("refcoco.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "refcoco.jsonl"


def fragment(file: str, name: str = "refcoco") -> Any:
    arguments = yaml.safe_load((DATA / f"{name}.yaml").read_text())["init_args"]
    data = JsonPrompts(**arguments | {"test": file, "image_root": "."})
    data.setup("test")
    return data.test_dataset()


@pytest.mark.parametrize("name", ["refcoco", "refcoco_plus", "refcocog"])
def test_each_phrase_is_a_sample_of_the_fragment(name: str) -> None:
    single = PUBLISHED | {"question_id": "8", "answer": ["it"], "bbox": [0, 0, 640, 48]}
    rows = fragment(write(single, PUBLISHED, single), name)
    assert len(rows) == len(rows.task_names()) == 5
    prompts = [rows[index] for index in range(5)]
    phrases = ["it", "the left dog", "dog lying down", "brown one", "it"]
    assert [prompt.sample["problem"] for prompt in prompts] == [ASKED.format(phrase) for phrase in phrases]
    ids = ["refcoco.jsonl:1", *(f"refcoco.jsonl:2.{number}" for number in (1, 2, 3)), "refcoco.jsonl:3"]
    assert [prompt.id for prompt in prompts] == ids
    assert [prompt.sample["id"] for prompt in prompts[:2]] == ["8", "000000581857_7.1"]
    boxes = [json.loads(prompt.sample["answer"])["boxes"] for prompt in prompts]
    assert boxes == [[0, 0, 1000, 100], BOX, BOX, BOX, [0, 0, 1000, 100]]
    assert {prompt.images[0].size for prompt in prompts} == {(640, 480)}
    assert rows.outline(3)[0].id == "refcoco.jsonl:2.3"
    # the half of the box to the left: IoU 0.5 in pixels as on the grid
    rule, sample = BENCHMARKS[name], prompts[1].sample
    assert rule.score(rule.value('{"boxes": [100, 250, 300, 750]}', sample)) == 1
    assert rule.score(rule.value('{"boxes": [100, 250, 299, 750]}', sample)) == 0
    with pytest.raises(IndexError):
        rows[5]


def test_rows_of_several_files_and_other_formats_keep_their_places() -> None:
    own = {"problem": "<image>Where?", "images": ["a.png"], "answer": json.dumps({"boxes": BOX})}
    Path("own.jsonl").write_text(json.dumps(own) + "\n" + json.dumps(PUBLISHED) + "\n" + json.dumps(own) + "\n")
    rows = fragment([write(PUBLISHED), "own.jsonl"])
    ids = [f"refcoco.jsonl:1.{n}" for n in (1, 2, 3)] + ["own.jsonl:1"] + [f"own.jsonl:2.{n}" for n in (1, 2, 3)]
    assert [rows[index].id for index in range(len(rows))] == [*ids, "own.jsonl:3"]


def test_convert_writes_what_the_fragment_reads(capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    buffer = io.BytesIO()
    Image.open("a.png").save(buffer, "JPEG")
    published = PUBLISHED | {"image": {"bytes": buffer.getvalue(), "path": None}}
    datasets.Dataset.from_list([published, published | {"answer": ["it"]}]).to_parquet("val.parquet")
    main(["convert", "val.parquet", "out.jsonl"])
    assert capsys.readouterr().out == "out.jsonl: 4 rows, 1 images; data.image_root: .\n"
    [image] = Path("out_images").iterdir()
    assert image.read_bytes() == buffer.getvalue()
    direct, converted = fragment("val.parquet"), fragment("out.jsonl")
    assert len(direct) == len(converted) == 4
    for index in range(4):
        one, other = direct[index], converted[index]
        assert one.messages == other.messages
        assert one.images[0].tobytes() == other.images[0].tobytes()
        assert all(one.sample[key] == other.sample[key] for key in ("id", "answer", "problem_type", "task_type"))
    main(["check", "out.jsonl"])
    main(["check", "val.parquet"])
    assert capsys.readouterr().out.count("4 rows, no errors") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": None}, "'answer' lists phrases, but there is no 'bbox'; it must be [x, y, width, height] in pixels"),
        ({"answer": []}, "'answer' lists no phrase; give at least one"),
        ({"bbox": [0.1, 0.25, 0.4, 0.5]}, "'bbox' [0.1, 0.25, 0.4, 0.5] holds fractions of the image; it must be [x, "),
        ({"bbox": [400, 300, 600, 450]}, "box [400, 300, 1000, 750] in pixels lies outside its image of 640 x 480; "),
        ({"bbox": [400, 300, 100, 0]}, "'bbox' is [400, 300, 100, 0]; it must be [x, y, width, height] in pixels, "),
        ({"bbox": [400, 300, 100]}, "'bbox' is [400, 300, 100]; it must be"),
        ({"bbox": "64 120"}, "'bbox' is '64 120'; it must be"),
        ({"bbox": [float("nan"), 1, 5, 5]}, "lies outside its image"),
        ({"image": None}, "its box is in pixels, but it has 0 images"),
        ({"image": "none.png"}, "no image file "),
    ],
)
def test_mistakes_are_named_with_file_and_row(folder: Path, changes: dict[str, Any], message: str) -> None:
    file = write(PUBLISHED, PUBLISHED | changes)
    with pytest.raises(UserError) as found:
        fragment(file)
    assert str(found.value).startswith("refcoco.jsonl, line 2: ")
    assert message in str(found.value)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=r"refcoco.jsonl, line 2: "):
        main(["convert", file, "out.jsonl"])
    assert sorted(folder.iterdir()) == before


def test_a_box_that_overhangs_by_rounding_ends_with_the_image() -> None:
    rows = fragment(write(PUBLISHED | {"bbox": [64.0, 120.0, 576.02, 240.0]}))
    assert json.loads(rows[0].sample["answer"])["boxes"] == [100, 250, 1000, 750]


def test_data_check_names_the_phrase(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="1 error in 4 rows"):
        main(["check", write(PUBLISHED | {"answer": ["it", "it", "she"]}, PUBLISHED | {"bbox": None})])
    out = capsys.readouterr().out
    assert "refcoco.jsonl, line 1, phrase 2: the same row as refcoco.jsonl, line 1, phrase 1" in out
    assert "refcoco.jsonl, line 2: 'answer' lists phrases, but there is no 'bbox'" in out


@pytest.mark.parametrize(
    "sentences",
    [
        [{"sent": "the left dog", "raw": "The left dog", "tokens": []}, {"raw": "brown one"}],
        ["the left dog", "brown one."],
        '[{"sent": "the left dog"}, {"sent": "brown one"}]',
    ],
)
def test_the_sentences_of_refer(sentences: Any) -> None:
    row = {"image": "a.png", "sentences": sentences, "bbox": PUBLISHED["bbox"], "ref_id": 5, "category": "dog"}
    rows = fragment(write(row))
    assert [rows[i].sample["problem"] for i in range(2)] == [ASKED.format(p) for p in ("the left dog", "brown one")]
    assert [json.loads(rows[i].sample["answer"])["boxes"] for i in range(2)] == [BOX, BOX]
    assert [rows[i].sample["id"] for i in range(2)] == ["5.1", "5.2"]


def test_an_empty_phrase_is_refused() -> None:
    refer = {key: value for key, value in PUBLISHED.items() if key != "answer"} | {"sentences": [{"sent": ""}]}
    for row in (PUBLISHED | {"answer": ["dog", " "]}, refer):
        with pytest.raises(UserError, match=r"line 1: phrase \d of '(answer|sentences)' is empty"):
            fragment(write(row))


def test_a_list_of_right_texts_is_no_list_of_phrases() -> None:
    row = {"question": "Total?", "answer": ["12", "twelve"], "bbox": [1, 2, 3, 4], "problem_type": "document"}
    assert canonical(row)["answer"] == '["12", "twelve"]'
    with pytest.raises(ValueError, match="'data convert' writes a row for each"):
        canonical(PUBLISHED)


def test_a_restart_numbers_the_phrases_as_the_first_start(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(PUBLISHED | {"question_id": "8", "answer": ["it"]}, PUBLISHED, PUBLISHED | {"answer": ["that"]})
    os.utime(file, (0, 0))
    first = fragment(file)
    monkeypatch.setattr(JsonRows, "_check", None)
    again = fragment(file)
    assert again.task_names() == first.task_names()
    assert [again[i].id for i in range(5)] == [first[i].id for i in range(5)]
    assert [again[i].sample for i in range(5)] == [first[i].sample for i in range(5)]
