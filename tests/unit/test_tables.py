"""Parquet files through ``datasets``."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.readers import read_rows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import TASKS


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def prompts(path: Path) -> JsonRows:
    return JsonRows([path], RowReader(path.parent), TASKS, RewardConfig())


def test_embedded_images_as_plain_bytes(datasets: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"problem": "<image>Find x.", "answer": str(i), "images": [{"bytes": png(colour), "path": None}]}
        for i, colour in enumerate(("red", "blue"))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    table = read_rows(tmp_path / "train.parquet")
    assert [table[i] for i in range(len(table))] == rows
    assert table.place(1) == f"{tmp_path}/train.parquet, row 2"
    with pytest.raises(IndexError):
        table[2]
    opened = prompts(tmp_path / "train.parquet")
    assert opened.task_names() == ["math_reasoning"] * 2
    assert opened[1].id == "train.parquet:2"
    assert opened[1].images[0].getpixel((0, 0)) == (0, 0, 255)
    assert opened[0].sample["answer"] == "0"


def test_image_columns_are_left_undecoded(datasets: Any, tmp_path: Path) -> None:
    broken = png("red")[:40]
    for name, feature, value in (
        ("image", datasets.Image(), {"bytes": broken, "path": None}),
        ("images", datasets.List(datasets.Image()), [{"bytes": png("red"), "path": None}]),
    ):
        features = datasets.Features(
            {"prompt": datasets.Value("string"), name: feature, "answer": datasets.Value("string")}
        )
        table = datasets.Dataset.from_list([{"prompt": "What?", name: value, "answer": "2"}], features=features)
        table.to_parquet(tmp_path / f"{name}.parquet")
        assert read_rows(tmp_path / f"{name}.parquet")[0][name] == value
    assert prompts(tmp_path / "images.parquet")[0].images[0].size == (6, 4)
    with pytest.raises(UserError, match=r"image.parquet, row 1: image of 40 bytes: "):
        prompts(tmp_path / "image.parquet")[0]


def test_tables_that_cannot_be_read(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"text.parquet: datasets cannot read it \(") as caught:
        read_rows(tmp_path / "text.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"none.parquet: No such file"):
        read_rows(tmp_path / "none.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the extra parquet: pip install 'lit_g2rpo\[parquet\]'"):
        read_rows("owner/name@train")


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("owner/name@train", {"path": "owner/name", "name": None, "split": "train"}),
        ("owner/na.me:sub-set@train[:1%]", {"path": "owner/na.me", "name": "sub-set", "split": "train[:1%]"}),
    ],
)
def test_hub_names(datasets: Any, monkeypatch: pytest.MonkeyPatch, source: str, asked: dict[str, Any]) -> None:
    seen = []
    table = datasets.Dataset.from_list([{"problem": "a", "answer": "b"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: seen.append(options) or table)
    rows = read_rows(source)
    assert seen == [asked]
    assert rows[0] == {"problem": "a", "answer": "b"}
    assert rows.place(0) == f"{source}, row 1"
