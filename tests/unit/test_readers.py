"""Files of rows and files of images."""

import bz2
import gzip
import json
import lzma
import random
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lit_g2rpo.data.files.readers import expanded, read_rows
from lit_g2rpo.data.media.images import ImageError, load_image
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.canonical import canonical


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit_g2rpo"


ROWS = [{"id": i, "text": "\u00e9" * i} for i in range(50)]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS[:3]) + "\n\n  \n" + json.dumps(ROWS[3])
    )
    rows = read_rows(path)
    assert list(rows) == ROWS[:4]
    assert rows[-1] == ROWS[3]
    assert (rows.place(0), rows.place(3)) == (f"{path}, line 1", f"{path}, line 6")
    with pytest.raises(IndexError):
        rows[4]


def test_json_lines_from_threads(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    rows = read_rows(path)
    wrong = []

    def read(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(500):
            index = order.randrange(len(ROWS))
            if rows[index] != ROWS[index]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_json_array_with_bare_nan(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"a": NaN}]')
    rows = read_rows(str(path))
    assert len(rows) == 2
    assert rows[0] == {"a": 1}
    assert rows.place(1) == f"{path}, row 2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "a", "unknown kind of file; give .jsonl"),
        ("rows.json", '{"a": 1}', "holds one JSON object, with no list of rows in a; it must be an array of rows"),
        ("rows.json", "[1]", "row 1: is a JSON number; a row must be an object"),
        ("rows.json", "[{]", r"rows.json, row 1: not valid JSON \("),
        ("rows.json", '[{"a": 1}, {"a": }]', r"rows.json, row 2: not valid JSON \("),
        ("rows.json", '[{"a": 1}, ]', r"rows.json, row 2: not valid JSON \("),
        ("rows.json", '[{"a": 1} {"a": 2}]', r"rows.json, row 1: not valid JSON \('{' follows it"),
        ("rows.json", '[{"a": 1}', r"rows.json, row 1: not valid JSON \(the end of the file follows it"),
        ("rows.json", '[{"a": 1}] 5', "rows.json: not valid JSON .text behind the end"),
        ("rows.json", b"[\xff]", "rows.json: cannot be read as UTF-8"),
        ("rows.jsonl.zst", "a", "unknown kind of file"),
        ("rows.jsonl.gz", "a", "rows.jsonl.gz: cannot be unpacked .Not a gzipped file"),
        ("rows@train.txt", "a", "is no file and no hub name; a table of the hub is owner/name@split"),
        ("rows.json", "[" * 100_000, r"rows.json, row 1: not valid JSON \("),
        ("rows.json", "", r"rows.json: not valid JSON \("),
    ],
)
def test_wrong_files(tmp_path: Path, cache: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)
    assert not list(cache.glob("*")), "nothing half-converted stays behind"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[pack]
    lines = "\n".join(json.dumps(row) for row in ROWS[:3])
    contents = {
        "jsonl": lines,
        "ndjson": lines,
        "json": json.dumps(ROWS[:3], indent=1),
        "tsv": "id\ttext\n0\ta\n",
        "csv": "id,text\n0,a\n",
    }
    for ending, content in contents.items():
        path = tmp_path / f"rows.{ending}{packed}"
        path.write_bytes(pack(content.encode()))
        rows = read_rows(path)
        assert list(rows) == ([{"id": "0", "text": "a"}] if ending in ("tsv", "csv") else ROWS[:3])
        assert rows.place(0).startswith(f"{path}, row 1")
        path.write_bytes(pack(content.encode())[:-9])
        with pytest.raises(UserError, match=r"cannot be unpacked \("):
            read_rows(path)


def test_tables_of_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('\ufeffindex\tquestion\tA\tB\tnote\n1\t"two\nlines"\tx\ty\t\n\n2\tWhat "is" it?\tx\ty\tz\n')
    rows = read_rows(path)
    assert rows[0] == {"index": "1", "question": "two\nlines", "A": "x", "B": "y", "note": None}
    assert rows[1]["question"] == 'What "is" it?'
    (tmp_path / "big.csv").write_text("image,answer\n" + "A" * 500_000 + ",4\n")
    assert len(read_rows(tmp_path / "big.csv")[0]["image"]) == 500_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.tsv", "a\tb\n1\t2\t3\n", "rows.tsv, line 2: 3 cells for 2 columns"),
        ("rows.csv", "a,a\n1,2\n", "its first line must name the columns, each once"),
        ("rows.csv", 'a,b\n1,"2\n', "rows.csv, line 2: no row of a table .unexpected end of data"),
        (
            "rows.json",
            '{"a": [{"b": 1}], "c": [{"d": 2}]}',
            "holds one JSON object, with lists of rows in a, c; it",
        ),
        ("rows.json", '{"a": 1}\n[2]\n', "rows.json, line 2: is a JSON array; a row must be an object"),
        ("rows.json", '{"a": 1}\n{"a": \n', "rows.json, line 2: not valid JSON"),
        ("rows.jsonl", '[{"a": 1},\n {"a": 2}', "rows.jsonl, row 2: not valid JSON .the end of the file"),
    ],
)
def test_wrong_tables(tmp_path: Path, cache: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '{"id": 1}\n{"id": 2}\n'),
        ("rows.json", '{"info": {"a": []}, "rows": [{"id": 1}, {"id": 2}], "n": 2}'),
        ("rows.jsonl", '[{"id": 1},\n {"id": 2}]'),
        ("rows.ndjson", '{"id": 1}\n{"id": 2}\n'),
        ("ROWS.JSONL", '{"id": 1}\n{"id": 2}\n'),
    ],
)
def test_rows_under_another_ending_or_in_an_object(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert list(read_rows(tmp_path / name)) == [{"id": 1}, {"id": 2}]


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 200}, {"id": 2, "file_name": "b.png"}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [40, 40, 120, 80], "iscrowd": 0},
        {"id": 8, "image_id": 1, "category_id": 5, "bbox": [0, 0, 400, 200], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "box"}, {"id": 5, "name": "ball"}],
}


def test_instances_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO))
    first, second = (canonical(row) for row in read_rows(path))
    assert first["problem"] == "<image>Find every object of these kinds: box, ball."
    assert (first["problem_type"], first["task_type"], first["images"]) == ("detection", "spatial_grounding", ["a.png"])
    assert json.loads(first["answer"]) == [{"bbox_2d": [100, 200, 400, 600], "label": "box"}]
    assert (second["id"], second["answer"]) == ("2", "[]")
    for name, change in (
        ("annotations", {"image_id": 9}), ("annotations", {"category_id": 9}), ("annotations", {"bbox": [1, 2]}),
        ("categories", {"id": 3, "name": ...}),
    ):  # fmt: skip
        wrong = {key: value for key, value in (COCO[name][0] | change).items() if value is not ...}
        path.write_text(json.dumps(COCO | {name: [wrong]}))
        with pytest.raises(UserError, match=r"instances.json"):
            read_rows(path)


def test_patterns(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "[x].jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert expanded([f"{tmp_path}/?.jsonl", "x.jsonl"]) == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl", "x.jsonl"]
    assert expanded([f"{tmp_path}/**/c.jsonl"]) == [f"{tmp_path}/deep/c.jsonl"]
    assert expanded([tmp_path / "[x].jsonl"]) == [f"{tmp_path}/[x].jsonl"]
    assert expanded(["owner/name@train[:100]"]) == ["owner/name@train[:100]"]
    with pytest.raises(UserError, match=r"none-.*: no file fits this pattern"):
        expanded([f"{tmp_path}/none-*.jsonl"])


def test_an_array_is_converted_once_per_state_of_the_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1))
    assert list(read_rows(path)) == ROWS
    [lines] = cache.glob("*")
    written = lines.stat().st_mtime_ns
    assert list(read_rows(path)) == ROWS
    assert [file.stat().st_mtime_ns for file in cache.glob("*")] == [written]
    path.write_text(json.dumps(ROWS[:7]))
    assert list(read_rows(path)) == ROWS[:7]
    path.write_text(" [ ] \n")
    assert len(read_rows(path)) == 0


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(UserError, match=r"rows.json: cannot be converted in .*; set XDG_CACHE_HOME"):
        read_rows(tmp_path / "rows.json")


@pytest.mark.parametrize("line", ["{", "[1]", "null", "\udcff", '{"a": "\\ud83d"}', '{"a": {"\\uDE00": 1}}'])
def test_wrong_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line.encode("utf-8", "surrogateescape"))
    rows = read_rows(path)
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: "):
        rows[1]


def test_pairs_of_surrogates_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\n{"a": "\\\\ud83d"}\n')
    assert list(read_rows(path)) == [{"a": "\U0001f600"}, {"a": "\\ud83d"}]


def test_the_place_in_a_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1, \n')
    with pytest.raises(UserError, match=r"line 1: not valid JSON \(.*, at character \d+\)$"):
        read_rows(tmp_path / "rows.jsonl")[0]


@pytest.mark.parametrize("name", ["none.json", "none.jsonl", "folder.json"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match=f"{name}: .*; give the path of a data file"):
        read_rows(tmp_path / name)


def test_image_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "RGBA", "LA"):
        path = tmp_path / f"{mode}.tiff" if mode in ("CMYK", "YCbCr") else tmp_path / f"{mode}.png"
        Image.new(mode, (5, 4)).save(path)
        image = load_image(path)
        assert (image.mode, image.size) == ("RGB", (5, 4))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        image.putpixel((x, 0), value)
    image.save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("L", (1000, 2)).save(tmp_path / "thin.png")
    Image.new("F", (4, 4)).save(tmp_path / "float.tiff")
    Image.new("I", (4, 4), -5).save(tmp_path / "signed.tiff")
    assert load_image(tmp_path / "whole.jpg").mode == "RGB"
    for name in (
        "cut.jpg",
        "cut.png",
        "text.jpg",
        "empty.jpg",
        "folder.jpg",
        "thin.png",
        "float.tiff",
        "signed.tiff",
        "no.png",
    ):
        with pytest.raises(ImageError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"big.png: .*10000 pixels"):
        load_image(tmp_path / "big.png")


def test_an_index_holds_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"text": "x" * 400}) + "\n") * 60_000)
    tracemalloc.start()
    rows = read_rows(path)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 60_000
    # 600,000 rows then take a tenth of the 50 MB that a process may spend
    assert size < 1.2e6
    assert peak < 2e6


def test_a_file_that_changes_is_named_as_that(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"problem": f"What is {number}?"}) + "\n" for number in range(5)]
    path.write_text("".join(lines) + "\n")
    rows = read_rows(path)
    before = [rows[number] for number in range(5)]
    with path.open("a") as file:
        file.write(lines[0])
    # what is appended, or takes the file's place, is not what this run reads
    assert [rows[number] for number in range(5)] == before
    path.write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: the file has changed since it was opened; give a run"):
        rows[0]
    path.write_text("".join(lines)[:30])
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: the file has changed since it was opened"):
        rows[1]


def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    rows = read_rows(path)
    (tmp_path / "new").write_text("text")
    (tmp_path / "new").replace(path)
    assert [rows[0], rows[1]] == [{"a": 1}, {"a": 2}]
