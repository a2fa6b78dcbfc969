"""MMBench's table becomes rows under all rotations, which its fragment and benchmark understand."""

import base64
import csv
import json
from io import BytesIO

import pytest
import yaml
from helpers.paths import CONFIGS
from PIL import Image

from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.benchmarks import benchmark_error
from lit_g2rpo.evaluation.figures import benchmark_figures
from lit_g2rpo.evaluation.mmbench import convert, main

COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]


def picture(color):
    buffer = BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


CAT = {
    "index": "7",
    "question": "What\nis it?",
    "A": "cat",
    "B": "dog",
    "C": "fox",
    "answer": "B",
    "image": picture("red"),
}
SAME = {"index": "8", "question": "And it?", "hint": "It barks.", "A": "no", "B": "yes", "answer": "B", "image": "7"}
ROTATED = CAT | {"index": "1000007", "A": "fox", "B": "cat", "C": "dog", "answer": "C", "image": "7"}


def test_every_question_comes_under_all_rotations(tmp_path):
    assert convert(table(tmp_path / "m.tsv", CAT, SAME, ROTATED), tmp_path / "mmbench.jsonl") == 2
    rows = [json.loads(line) for line in (tmp_path / "mmbench.jsonl").read_text().splitlines()]
    assert [(row["circular_id"], row["options"], row["answer"]) for row in rows] == [
        ("7", ["cat", "dog", "fox"], "B"),
        ("7", ["fox", "cat", "dog"], "C"),
        ("7", ["dog", "fox", "cat"], "A"),
        ("8", ["no", "yes"], "B"),
        ("8", ["yes", "no"], "A"),
    ]
    assert rows[3]["problem"] == "<image>It barks.\nAnd it?"
    for row in rows:
        with Image.open(tmp_path / row["images"][0]) as image:
            assert image.getpixel((0, 0)) == (255, 0, 0)


def test_the_fragment_reads_the_rows_and_a_letter_bias_earns_nothing(tmp_path, monkeypatch):
    convert(table(tmp_path / "m.tsv", CAT, SAME), tmp_path / "mmbench.jsonl")
    fragment = yaml.safe_load((CONFIGS / "data" / "mmbench.yaml").read_text())
    arguments = fragment["init_args"] | {"test": str(tmp_path / "mmbench.jsonl"), "image_root": str(tmp_path)}
    data = JsonPrompts(**arguments)
    data.setup("test")
    dataset = data.test_dataset()
    rows = [dataset[i].sample for i in range(5)]
    assert [benchmark_error(row) for row in rows] == [None] * 5
    mmbench = BENCHMARKS["mmbench"]
    always = [mmbench.suite.read("B", row) for row in rows]
    assert benchmark_figures(mmbench, always, rows) == {
        "circular accuracy": 0.0,
        "vanilla accuracy": pytest.approx(0.4),
    }
    spelt = [mmbench.suite.read("dog" if row["circular_id"] == "7" else "no", row) for row in rows]
    assert benchmark_figures(mmbench, spelt, rows)["circular accuracy"] == 0.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (CAT | {"answer": ""}, r"index 7: answer '', 3 options; .*test split is published without"),
        (CAT | {"answer": "D"}, "index 7: answer 'D', 3 options"),
        (CAT | {"image": "99"}, "index 7: 'image' is no image in base64, and no index"),
        (CAT | {"image": "QUJD" * 40}, "index 7: 'image' is no image in base64"),
        (CAT | {"index": "x"}, "'index' must be a whole number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_nothing_written(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        convert(table(tmp_path / "m.tsv", SAME | {"image": CAT["image"]}, row), tmp_path / "mmbench.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["m.tsv"]


def test_the_command_says_what_it_did_and_what_is_wrong(tmp_path, capsys):
    main([str(table(tmp_path / "m.tsv", CAT)), str(tmp_path / "mmbench.jsonl")])
    assert "1 questions, each under all rotations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "m.tsv"), str(tmp_path / "mmbench.jsonl")])
    assert "mmbench.jsonl exists" in capsys.readouterr().err
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "a.tsv"), str(tmp_path / "new.jsonl")])
    assert "lacks the columns A, B, answer, image, index, question" in capsys.readouterr().err
