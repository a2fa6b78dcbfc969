"""Images of a row: found in any column, or the column is named, so that no policy is trained blind."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError

ASKED = {"problem": "How many bars?", "answer": "4"}


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert("RGB").save(buffer, form)
    return buffer.getvalue()


JPEG, PNG = encoded("JPEG"), encoded("PNG")


class OneRow(list[dict[str, Any]]):
    name = "f.json"

    def place(self, index: int) -> str:
        return "f.json, row 3"


def read(row: dict[str, Any], **options: Any) -> dict[str, Any]:
    [(found, _)] = RowReader(Path(), **options).read(OneRow([dict(row)]), 0)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "image_path", "image_paths", "image_url", "image_urls", "image_file", "image_name", "img_path", "img", "imgs",
        "img_src", "decoded_image", "picture", "pictures", "photo", "photo_url", "screenshot", "Image", "IMAGES",
        "imagePath", "image_1", "image1", "image_filename", "image_uri",
    ],
)  # fmt: skip
def test_columns_that_can_only_hold_images_are_read(name: str) -> None:
    for value in ("img/bar.jpg", ["img/bar.jpg"], '["img/bar.jpg"]', {"path": "img/bar.jpg", "bytes": None}):
        row = read(ASKED | {name: value})
        assert (row["images"], row["problem"]) == (["img/bar.jpg"], "<image>How many bars?")
        assert name not in row


@pytest.mark.parametrize("content", [JPEG, PNG])
def test_contents_of_images_are_read_in_every_form(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    for value in (
        content,
        text,
        f"data:image/png;base64,{text}",
        {"bytes": content},
        {"data": text},
        {"grit_img": text},
    ):
        for name in ("image", "image_bytes", "image_base64"):
            assert read(ASKED | {name: value})["images"] == [content]


def test_columns_with_numbers_are_read_in_order() -> None:
    row = ASKED | {f"image_{number}": f"{number}.png" for number in (10, 2, 1)} | {"image_3": None}
    assert read(row)["images"] == ["1.png", "2.png", "10.png"]
    assert read(ASKED | {"image": "0.png", "image_2": "2.png"})["images"] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"path": "img/bar.jpg"}, "path"),
        ({"file_name": "bar.PNG"}, "file_name"),
        ({"visual": ["img/bar.jpg"]}, "visual"),
        ({"url": "https://example.org/a.png?x=1"}, "url"),
        ({"blob": JPEG}, "blob"),
        ({"content": {"bytes": PNG, "path": None}}, "content"),
        ({"extra_info": {"a": {"img": ["img/bar.jpg"]}}}, "extra_info.a.img"),
        ({"meta": json.dumps({"picture": "img/bar.jpg"})}, "meta.picture"),
        ({"media": [{"type": "image", "path": "img/bar.jpg"}]}, "media"),
        ({"left_image": "a.png", "right_image": "b.png"}, "left_image,right_image"),
        ({"img": "a.png", "picture": "b.png"}, "img,picture"),
    ],
)
def test_other_columns_with_images_are_named_with_the_option_that_reads_them(
    columns: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=r"^f.json, row 3: ") as caught:
        read(ASKED | columns)
    assert f"(--column images={named})" in str(caught.value)
    row = read(ASKED | columns, columns={"images": named})
    assert row["images"]
    assert row["problem"] == "<image>" * len(row["images"]) + "How many bars?"


@pytest.mark.parametrize(
    "columns",
    [
        {"image_id": 262148}, {"img_id": "a7"}, {"image": 5}, {"image_index": 3},
        {"problem": "![a chart](img/bar.jpg) How many?"}, {"problem": "<img src='img/bar.jpg'> How many?"},
    ],
)  # fmt: skip
def test_an_image_that_is_only_named_is_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^f.json, row 3: "):
        read(ASKED | columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"source": "https://example.org/page.html"},
        {"caption": "A chart. It has four bars."},
        {"has_image": False, "image_id": None, "image_caption": "the bars of a.png, in grey", "image": None},
        {"images": [], "level": 3.5, "tags": ["a", "b"], "extra_info": {"index": 4, "split": "train"}},
        {"pixel_values": [1, 2]},
        {"problem": "What does print('a.png') write?", "answer": "a.png"},
        {"figure": "none"},
        {"file": "train.jsonl"},
    ],
)
def test_rows_of_text_stay_rows_of_text(columns: dict[str, Any]) -> None:
    row = read(ASKED | columns)
    assert row["images"] == []
    assert "<image>" not in row["problem"]


def test_options_that_are_images_are_refused() -> None:
    for shown in ({}, {"image": "c.png"}):
        with pytest.raises(UserError, match=r"its options are images .'a.png'.; put them in 'images', and '<image 1>'"):
            read(ASKED | shown | {"options": ["a.png", "b.png"], "answer": "A"})
    assert read(ASKED | {"options": ["a.png", "a text"], "answer": "A"})["options"] == ["A. a.png", "B. a text"]


def test_a_row_of_text_may_say_so() -> None:
    for columns in ({"file_name": "bar.png"}, {"image_id": 7}, {"problem": "What is <img src='a.png'> in HTML?"}):
        assert read(ASKED | columns, columns={"images": ""})["images"] == []
    with pytest.raises(UserError, match=r"data.columns.problem is empty; give the column that holds it"):
        read(ASKED, columns={"problem": ""})


@pytest.mark.parametrize(
    ("row", "problem", "images"),
    [
        ({"problem": "<image 1> how many?", "images": ["a.png"]}, "<image> how many?", ["a.png"]),
        ({"problem": "<img>how many?", "images": ["a.png"]}, "<image>how many?", ["a.png"]),
        ({"problem": "<IMAGE>how many?", "images": ["a.png"]}, "<image>how many?", ["a.png"]),
        (
            {"problem": "<|image_1|>\n<|image_2|>?", "images": ["a.png", "b.png"]},
            "<image>\n<image>?",
            ["a.png", "b.png"],
        ),
        (
            {"problem": "<image_0> or <image_1>?", "images": ["a.png", "b.png"]},
            "<image> or <image>?",
            ["a.png", "b.png"],
        ),
        (
            {"question": "<image 2>, <image 1>, again <image 2>", "image_1": "a.png", "image_2": "b.png"},
            "<image>, <image>, again image 2",
            ["b.png", "a.png"],
        ),
        (
            {"problem": "Left of <image 2>?", "images": ["a.png", "b.png", "c.png"]},
            "<image><image>Left of <image>?",
            ["a.png", "c.png", "b.png"],
        ),
        (
            {"question": "Which?", "options": ["<image 1>", "<image 2>"], "image_1": "a.png", "image_2": "b.png"},
            "Which?\nImage 1: <image>\nImage 2: <image>",
            ["a.png", "b.png"],
        ),
        ({"query": "Picture 1: <img>a/b.jpeg</img>\nHow many?"}, "Picture 1: <image>\nHow many?", ["a/b.jpeg"]),
        (
            {"prompt": "<|vision_start|><|image_pad|><|vision_end|>How many?", "images": ["a.png"]},
            "<image>How many?",
            ["a.png"],
        ),
    ],
)
def test_other_marks_for_images(row: dict[str, Any], problem: str, images: list[str]) -> None:
    found = read(row | {"answer": "A"})
    assert (found["problem"], found["images"]) == (problem, images)


def test_a_mark_without_its_image_is_refused() -> None:
    with pytest.raises(UserError, match="its question names image 3, but it has 1 images"):
        read({"problem": "<image 3>?", "images": ["a.png"], "answer": "4"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "'images' holds an empty text for an image; give a path, or leave it out"),
        (None, "'images' holds null for an image"),
        (5, "'images' holds 5; give paths, bytes or PIL images"),
        ({"path": ""}, "'images' holds {'path': ''}; give paths"),
        ("file:///home/user/bar.jpg", "image '/home/user/bar.jpg' lies outside data.image_root"),
        ("https://example.org/a.png", "is an address of the web; save it in"),
        ("a/" * 200 + "b.png", r"no image file .{1,260}; check 'images'"),
    ],
)
def test_images_that_are_none_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, message: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": "<image>How many?", "answer": "4", "images": [value]}) + "\n")
    with pytest.raises(UserError, match=message):
        JsonPrompts(train=str(file), image_root=str(tmp_path)).setup("fit")


def test_training_stops_at_an_image_that_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ASKED | {"path": "a.png"}) + "\n")
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: no image is read, but 'path' holds one"):
        JsonPrompts(train=str(file), image_root=str(tmp_path)).setup("fit")
    data = JsonPrompts(train=str(file), image_root=str(tmp_path), columns={"images": "path"})
    data.setup("fit")
    assert [image.size for image in data.train_dataset()[0].images] == [(64, 48)]
