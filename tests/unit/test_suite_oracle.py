"""Our readings of free text against the suites' own functions, taken out of their unpacked sources.

``LIT_G2RPO_VLMEVALKIT`` and ``LIT_G2RPO_LMMS_EVAL`` name the folders that hold ``vlmeval`` and ``lmms_eval``: a wheel,
unpacked, will do, since neither suite is imported. Skipped without.
"""

import ast
import copy
import json
import os
import random
import re
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import numpy as np
import pytest

from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.masks import encode_mask
from lit_g2rpo.evaluation.suites.options import concluded_option, inferred_option

PAIRS = int(os.environ.get("LIT_G2RPO_ORACLE_PAIRS", "2000"))
NAMES = {
    "re": re, "ast": ast, "cp": copy, "os": os, "string": string, "np": np, "json": json, "Optional": Optional,
    "Dict": dict, "List": list, "pd": SimpleNamespace(Series=object), "ImageBaseDataset": object,
    "ImageVQADataset": object, "num2words": lambda number, lang: str(number),
}  # fmt: skip


def taken(variable, path, **names):
    """Run the functions, classes and constants of a file without its imports."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder")
    source = (Path(os.environ[variable]) / path).read_text()
    kept = (ast.FunctionDef, ast.ClassDef, ast.Assign)
    body = [node for node in ast.parse(source).body if isinstance(node, kept) and "get_logger" not in ast.dump(node)]
    space = NAMES | names
    exec(compile(ast.Module(body, []), path, "exec"), space)
    return SimpleNamespace(**space)


WORDS = [
    "A", "B", "C", "D", "E", "F", "(B)", "B.", "**C**", "*D*", "b", "c.", "[B]", "{A}", "A)", "B:", "Option",
    "option A:", "Option B: dog", "the", "answer", "is", "The answer is", "final answer:", "correct answer", "答案",
    "选", "选项 A\uff1a", "\uff08B\uff09", "\u3010C\u3011", "B\u3002", "\uff1aC", "\n", "\n\n", "red", "a cat", "green",
    "blue", "I think", "or", "Z", "\\boxed{B}", "$B$", '"B"', "B?", "-", "- ", "> ", "`A`", "A\u3001 x", "x" * 40,
    "\u200b", "A-", "B_", "C's", "ABC", "A1", "_B_", " ", "Cannot determine the answer",
]  # fmt: skip


def words(generator):
    return generator.choice([" ", "", " "]).join(generator.choices(WORDS, k=generator.randrange(1, 14)))


def test_inferred_options_equal_vlmevalkit():
    kit = taken("LIT_G2RPO_VLMEVALKIT", "vlmeval/utils/matching_util.py", detect_repetition=None, Counter=None)
    stated = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")
    options, generator, found = {"A": "red", "B": "a cat", "C": "green", "D": "Blue one"}, random.Random(1), 0
    for _ in range(PAIRS):
        text = words(generator)
        theirs = kit.can_infer_option(text, options)
        # the branch that pull request 1552 put between the two after 0.0.20
        if not theirs and (match := stated.search(text)) and match[1].upper() in options:
            theirs = match[1].upper()
        theirs = theirs or kit.can_infer_text(text, dict(options)) or None
        assert inferred_option(text, options) == theirs, text
        found += theirs is not None
    assert 0.2 < found / PAIRS < 0.9


def test_concluded_options_equal_vlmevalkit():
    kit = taken("LIT_G2RPO_VLMEVALKIT", "vlmeval/dataset/utils/spatial_bench/matching_func.py")
    generator, found = random.Random(2), 0
    for _ in range(PAIRS):
        text = words(generator)
        theirs = kit.can_match_option(text) or None
        assert concluded_option(text) == theirs, text
        found += theirs is not None
    assert 0.2 < found / PAIRS < 0.9


def number(generator):
    if generator.random() < 0.6:
        return str(generator.randrange(1001))
    return generator.choice([
        f"{generator.random():.2f}", f"{generator.uniform(0, 1000):.1f}", str(generator.randrange(5)),
        str(-generator.randrange(3)), str(generator.randrange(900, 2000)),
    ])  # fmt: skip


def places(generator):
    parts = []
    for _ in range(generator.choice([1, 1, 2, 3])):
        a, b, c, d = (number(generator) for _ in range(4))
        parts.append(generator.choice([
            f"[{a}, {b}, {c}, {d}]", f"[{a} {b} {c} {d}]", f"({a}, {b}), ({c}, {d})", f"({a}, {b})", "the box is",
            f'{{"bbox_2d": [{a}, {b}, {c}, {d}], "label": "x"}}', "bbox_2d: 100 200 300 400", "[[1,2],[3,4]]",
            f'```json\n[{{"point_2d": [{a}, {b}], "label": "a"}}]\n```', f"[{{'point_2d': ({a}, {b})}}]",
            f"<box>{a},{b},{c},{d}</box>", "2 cats",
        ]))  # fmt: skip
    return generator.choice([" ", "\n", ", "]).join(parts)


SIZES = [(640, 480), (1200, 1600)]


def test_first_boxes_equal_vlmevalkit():
    kit = taken("LIT_G2RPO_VLMEVALKIT", "vlmeval/dataset/refcoco.py").RefCOCODataset
    generator, hits = random.Random(3), 0
    for _ in range(PAIRS):
        text, (width, height) = places(generator), generator.choice(SIZES)
        (left, right), (top, bottom) = (sorted(generator.sample(range(1001), 2)) for _ in range(2))
        gold = np.array([left * width, top * height, right * width, bottom * height]) / 1000
        coordinates = kit._parse_prediction(text)
        theirs = None if coordinates is None else kit._compute_iou(kit._to_absolute(coordinates, width, height), gold)
        row = {"answer": json.dumps({"boxes": [left, top, right, bottom]}), "width": width, "height": height}
        ours = BENCHMARKS["refcoco"].suite.read(text, row)
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-9)), text
        hits += bool(theirs)
    assert hits > PAIRS / 10


def test_points_in_a_mask_equal_lmms_eval():
    lmms = taken("LIT_G2RPO_LMMS_EVAL", "lmms_eval/tasks/_task_utils/point_format.py")
    generator, hits = random.Random(4), 0
    for i in range(PAIRS):
        text, (width, height) = places(generator), generator.choice([(64, 48), (120, 160)])
        mask = np.random.default_rng(i % 50).random((height, width)) < 0.5
        points = lmms.parse_point2d(text, width, height).reshape(-1, 2)
        inside = [0 <= x < width and 0 <= y < height and mask[y, x] for x, y in points]
        row = {"answer": '{"boxes": [0, 0, 1, 1]}', "mask": encode_mask(mask)}
        ours = BENCHMARKS["refspatial"].suite.read(text, row)
        assert ours == (pytest.approx(np.mean(inside)) if inside else None), text
        hits += any(inside)
    assert hits > PAIRS / 10


def test_first_points_equal_vlmevalkit():
    path = "vlmeval/dataset/utils/spatial_bench/tools/utils.py"
    parser = taken("LIT_G2RPO_VLMEVALKIT", path).Point2DParser
    parser.log_hint = staticmethod(lambda **_: None)
    kit = taken("LIT_G2RPO_VLMEVALKIT", "vlmeval/dataset/robospatialbench.py", Point2DParser=parser).RoboSpatialBench
    generator, hits = random.Random(5), 0
    for _ in range(PAIRS):
        text, (width, height) = places(generator), generator.choice(SIZES)
        polygon = [[generator.uniform(0, 1000), generator.uniform(0, 1000)] for _ in range(3)]
        parts = str([(x / 1000, y / 1000) for x, y in polygon])
        right, _, _, parsed = kit.evaluate_answer(parts, text, width, height)
        row = {"answer": json.dumps({"polygon": polygon}), "width": width, "height": height}
        assert BENCHMARKS["robospatial"].suite.read(text, row) == (float(right) if parsed else None), text
        hits += right
    assert hits > PAIRS / 200
