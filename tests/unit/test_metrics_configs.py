"""A fragment for each benchmark, and rows as it describes them."""

import json

import numpy as np
import pytest
import yaml
from helpers.paths import CONFIGS
from PIL import Image

from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.benchmarks import benchmark_error
from lit_g2rpo.evaluation.masks import encode_mask
from lit_g2rpo.rewards.answers.references import references

DATA = CONFIGS / "data"
CHOICE = {"answer": "B", "options": ["cat", "dog"]}
BOX = '{"boxes": [0, 0, 500, 500]}'
ROWS = {
    "mmmu": CHOICE,
    "mmstar": CHOICE | {"category": "math", "l2_category": "geometry"},
    "ai2d": CHOICE,
    "embspatial": CHOICE,
    "chartqa": {"answer": "12", "type": "human"},
    "docvqa": {"answer": '["12", "twelve"]'},
    "infovqa": {"answer": '["12"]'},
    "ocrbench": {"answer": '["hello"]', "dataset": "IIIT5K", "question_type": "Regular Text Recognition"},
    "refspatial": {"answer": BOX, "mask": encode_mask(np.eye(4, dtype=bool)), "split": "unseen"},
    "robospatial": {"answer": "yes", "category": "configuration"},
    "refcoco": {"answer": BOX},
    "refcoco_plus": {"answer": BOX},
    "refcocog": {"answer": BOX},
    "mmbench": CHOICE | {"circular_id": "7"},
    "mathvista": {"answer": "12", "answer_type": "integer", "precision": 0},
    "mathverse": {"answer": "12"},
    "mathvision": CHOICE | {"problem_type": "multiple choice"},
    "charxiv": {"answer": "blue"},
}
POINT = {"refspatial": "[[100, 100]]"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_as_the_fragment_describes_them_are_read_and_scored(name, tmp_path):
    fragment = yaml.safe_load((DATA / f"{name}.yaml").read_text())
    arguments = fragment["init_args"] | {"test": str(tmp_path / "rows.jsonl"), "image_root": str(tmp_path)}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"problem": "<image>What is it?", "images": ["a.png"]} | ROWS[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    data = JsonPrompts(**arguments)
    data.setup("test")
    sample = data.test_dataset()[0].sample
    assert sample["benchmark"] == name
    assert benchmark_error(sample) is None
    answer = POINT.get(name) or references(row["answer"])[0]
    assert BENCHMARKS[name].value(answer, sample) == 1
    if not BENCHMARKS[name].suite.judged:
        assert BENCHMARKS[name].suite.read(answer, sample) == 1


def test_the_columns_a_rule_needs_are_in_its_fragment():
    for name in BENCHMARKS:
        text = (DATA / f"{name}.yaml").read_text()
        assert all(f"{column}" in text for column in BENCHMARKS[name].columns), name
        assert BENCHMARKS[name].source.split(",")[0] in text, name
