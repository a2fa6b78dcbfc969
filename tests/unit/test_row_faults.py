"""Faulty rows: one true line each, in every check, and never a traceback."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import CASES
from PIL import Image

from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.gold import gold_error
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.rules import math, math_gold
from lit_g2rpo.tasks import TASKS

COMPLETION = "<thinking>a</thinking><answer>{}</answer>"
WHOLE: dict[str, Any] = {
    "id": "x", "problem": "<image> How many dogs?", "problem_type": "counting", "answer": "7", "images": ["a.png"],
    "task_type": "ocr", "data_source": "s", "options": [], "demonstration": COMPLETION.format("7"), "solution": "7",
}  # fmt: skip
CHOICE = {"problem": "<image> Which?", "problem_type": "multiple choice", "answer": "B", "options": ["cat", "dog"]}
CHOICE |= {"images": ["a.png"], "task_type": "ocr"}


class NoAlgebra:
    """A pool that reads and equates nothing: no process may be started here."""

    def reads(self, text: str) -> bool:
        return False

    def verify(self, gold: str, answer: str) -> bool:
        return False


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (math, math_gold):
        monkeypatch.setattr(module, "current_pool", NoAlgebra)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def found(root: Path, *lines: str | dict[str, Any]) -> list[tuple[str, str]]:
    """Errors of ``data check``, held to be those of ``fit`` too: kind, and the message behind the name of the file."""
    file = root / "f.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    errors = FileCheck(RowReader(root), TASKS).run([str(file)]).errors
    stopped = ""
    try:
        JsonRows([file], RowReader(root), TASKS, RewardConfig())
    except UserError as error:
        stopped = str(error)
    assert (stopped in [message for _, message in errors]) == bool(errors)
    return [(kind, message.removeprefix(f"{file}, ")) for kind, message in errors]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"options": [1, 2]}, "row", "'options' is [1, 2]; it must be a list of texts, and place 1 is none"),
        ({"options": ["a", None]}, "row", "it must be a list of texts, and place 2 is none"),
        ({"options": [["a"]]}, "row", "it must be a list of texts, and place 1 is none"),
        ({"options": "a or b"}, "row", "'options' is 'a or b'; it must be a list of texts"),
        ({"options": "['a' 'b']"}, "row", "it must be a list of texts"),
        ({"options": ["cat"], "answer": "A"}, "column", "'options' has only 'A. cat'; give two or more"),
        ({"options": ["A. dog", "B. dog"]}, "column", "options A and B are both 'dog'; they must differ"),
        ({"options": ["cat", "dog", " dog"]}, "column", "options B and C are both 'dog'"),
        ({"options": ["A. ", "B. "]}, "column", "option A is empty; give its text"),
        ({"options": ["cat", ""]}, "column", "option B is empty"),
        ({"options": [f"o{i}" for i in range(27)]}, "row", "'options' has 27 texts; letters reach to 26"),
        ({"options": [f"A. o{i}" for i in range(27)]}, "row", "'options' has 27 texts"),
        ({"answer": ["A", "B"]}, "gold", "names several options; it must be the letter of one of its 2 options"),
        ({"task_type": ["ocr"]}, "column", "unknown task_type ['ocr']; known: spatial_grounding"),
        ({"task_type": {"a": 1}}, "column", "unknown task_type {'a': 1}"),
        ({"task_type": None, "task": "closed choice"}, "column", "or data.defaults.task_type (--default task_"),
        ({"task_type": False}, "column", "unknown task_type False"),
        ({"task_type": "x" * 999}, "column", f"unknown task_type '{'x' * 76}...; known"),
        ({"problem_type": ["math"]}, "column", "unknown problem_type ['math']; known: multiple choice"),
        ({"problem_type": 0}, "column", "unknown problem_type 0"),
        ({"problem_type": "y" * 999}, "column", f"unknown problem_type '{'y' * 79}; known"),
        ({"demonstration": "no tags at all"}, "demonstration", "must be <thinking>...</thinking><answer>...</answer>"),
        ({"demonstration": COMPLETION.format("A")}, "demonstration", "answers 'A' but 'answer' is 'B'; one of"),
        ({"demonstration": ""}, "demonstration", "'demonstration' is ''; it must be <thinking>"),
        ({"solution": "A"}, "row", "'answer' is 'B' but 'solution' is 'A'; leave the wrong one out"),
        ({"solution": "cat"}, "row", "'answer' is 'B' but 'solution' is 'cat'"),
        ({"ground_truth": "A"}, "row", "but 'ground_truth' is 'A'"),
        ({"reward_model": {"ground_truth": "A"}}, "row", "but 'reward_model.ground_truth' is 'A'"),
        ({"answer": None}, "column", "no answer; give it in 'answer'"),
        ({"answer": float("nan"), "problem_type": None, "options": None}, "column", "no answer; give it in 'answer'"),
        ({"images": [None]}, "row", "'images' holds null for an image; give a path, or leave it out"),
        ({"images": [3]}, "row", "'images' holds 3; give paths"),
        ({"images": [""]}, "row", "'images' holds an empty text for an image; give a path, or leave it out"),
        ({"images": [" "]}, "row", "'images' holds an empty text for an image"),
        ({"videos": [""]}, "row", "'videos' holds an empty text; give paths or bytes"),
        ({"images": ["/9j/4AAQSkZJRgABAQAAAQ" * 99]}, "row", "that cannot be decoded (Incorrect padding): '/9j/"),
        ({"images": ["data:image/png;base64,@@"]}, "row", "base64 that cannot be decoded (Only base64"),
        ({"images": ["AAAAIGZ0eXA" + "A" * 400]}, "image", "is base64 of no known format; give data:image/png;base64,"),
        ({"images": ["data:text/plain;base64,AAAA"]}, "image", "is a data address of another kind; give data:image"),
        ({"options": {"A": 1, "B": 2}}, "row", "'options' is {'A': 1, 'B': 2}; it must hold a text for each letter"),
        ({"options": {"A": ["cat"], "B": "dog"}}, "row", "it must hold a text for each letter"),
        ({"images": ["file:///etc/passwd"]}, "image", "image '/etc/passwd' lies outside data.image_root"),
        ({"images": ["https://example.org/a.png"]}, "image", "is an address of the web; save it in"),
        ({"images": ["x.y/" * 3000]}, "image", "...; check 'images' and data.image_root"),
    ],
)  # fmt: skip
def test_one_true_line_for_each_fault(root: Path, changes: dict[str, Any], kind: str, message: str) -> None:
    [(actual, line)] = found(root, CHOICE | changes)
    assert actual == kind
    assert line.startswith("line 1: ")
    assert message in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"problem_type": "math", "answer": "The answer is 7."}, "gold", "answer 'The answer is 7.' has the word"),
        ({"problem_type": "math", "answer": "B. 12"}, "gold", "names an option; give its letter"),
        ({"problem_type": "math", "answer": ["7 or 8", "7"]}, "gold", "answer '7 or 8' has the word 'or'"),
        ({"problem_type": "math", "answer": {"value": 2}}, "gold", "is JSON, but no list of texts"),
        ({"problem_type": "math", "answer": [{"a": 1}]}, "gold", "is JSON, but no list of texts"),
        ({"problem_type": "math", "answer": "['\\frac12', '0.5']"}, "gold", "begins as a list of texts does, but"),
        ({"problem_type": "chart", "answer": "['4' 'four']"}, "gold", "begins as a list of texts does, but"),
        ({"problem_type": "scientific", "answer": "about 9.81"}, "gold", "has the word 'about'"),
        ({"problem_type": "document", "answer": [1, 2]}, "gold", "answer '[1, 2]' is JSON, but no list of texts"),
        ({"problem_type": "document", "answer": ["a", " "]}, "gold", "none of them empty"),
        ({"problem_type": "document", "answer": []}, "gold", "is JSON, but no list of texts"),
        ({"problem_type": "chart", "answer": {"a": 1}}, "gold", "is JSON, but no list of texts"),
        ({"problem_type": "numerical", "answer": ["4", "four"]}, "gold", "'four' cannot be scored (bad_gold)"),
        ({"problem_type": "OCR", "answer": ["a", "b"]}, "gold", "lists texts, of which problem_type 'document'"),
        ({"problem_type": "math", "answer": float("inf")}, "row", "'answer' is inf; it must be a text, a number"),
        ({"solution": "8"}, "row", "'answer' is '7' but 'solution' is '8'; leave the wrong one out"),
        ({"solution": "So 2+6 = \\boxed{8}"}, "row", "but 'solution' is 'So 2+6"),
        ({"problem_type": "detection", "answer": json.dumps([
            {"bbox_2d": [10, 20, 30, 40], "label": "a"}, {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "label": "a"}])},
         "gold", "holds fractions of the image"),
    ],
)  # fmt: skip
def test_one_true_line_for_each_answer(root: Path, changes: dict[str, Any], kind: str, message: str) -> None:
    row = {key: value for key, value in WHOLE.items() if key not in ("demonstration", "solution")}
    [(actual, line)] = found(root, row | changes)
    assert (actual, message in line) == (kind, True), line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem": "a", "answer": "1", "problem": "b"}', "line 1: not valid JSON (key 'problem' twice in one"),
        ('{"problem": "a", "reward_model": {"x": 1, "x": 1}}', "key 'x' twice in one object"),
    ],
)  # fmt: skip
def test_a_key_twice(root: Path, line: str, message: str) -> None:
    [(_, said)] = found(root, line)
    assert message in said
    wrapped = root / "w.json"
    wrapped.write_text(f'{{"data": [{line}]}}')
    with pytest.raises(UserError, match=r"w.json: not valid JSON \(key '\w+' twice in one object"):
        JsonRows([wrapped], RowReader(root), TASKS, RewardConfig())
    array = root / "f.json"
    array.write_text(f'[{{"problem": "a"}}, {line}]')
    with pytest.raises(UserError, match=r"row 2: not valid JSON \(key '\w+' twice in one object"):
        JsonRows([array], RowReader(root), TASKS, RewardConfig())


def test_an_empty_phrase(root: Path) -> None:
    row = {"answer": ["dog", " "], "bbox": [1, 1, 5, 5], "image": "a.png", "task": "spatial_grounding"}
    assert found(root, row) == [("row", "line 1: phrase 2 of 'answer' is empty; it must describe the box")]


@pytest.mark.parametrize(
    "text", ['["cat", "dog"]', "['cat', 'dog']", "A. cat\nB. dog", "[\"cat\", 'dog']", {"a": "cat", "b": "dog"}]
)
def test_options_written_as_text(root: Path, text: Any) -> None:
    assert canonical(CHOICE | {"options": text})["options"] == ["A. cat", "B. dog"]
    assert found(root, CHOICE | {"options": text}) == []


@pytest.mark.parametrize(
    "text", ["['can't', 'b']", "['\\theta', 'b']", "[a, b]", "['a', 'b'", "[" * 9999, "[__import__('os')]"]
)
def test_texts_that_are_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="'options' is"):
        canonical(CHOICE | {"options": text})


def test_two_right_numbers_are_no_place() -> None:
    row = {"problem": "<image>How many?", "images": ["a.png"], "answer": ["150", "150.0"]}
    assert (canonical(row)["problem_type"], canonical(row)["answer"]) == ("math", '["150", "150.0"]')


@pytest.mark.parametrize("answer", [["4", "four"], '["4", "four"]', "['4', 'four']"])
def test_any_of_several_right_answers(answer: Any) -> None:
    row = {"problem": "How many?", "reward_model": {"ground_truth": answer}}
    assert gold_error(row) is None
    assert [score(COMPLETION.format(text), row).accuracy for text in ("4", "4.0", "four", "5", "4, four")] == [
        1,
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("3*4=<<3*4=12>>12 marbles.\n#### 12", "12"), ("#### 1,234", "1,234"), ("<answer>so\n#### 5</answer>", "5"),
        ("<think>a</think>\n4", "4"), ("so\n</thinking><answer>4</answer>", "4"),
        ("<think>\\boxed{3}?</think>\n\\boxed{4}", "4"), ("<think>4</think>", "<think>4</think>"),
        ("### Step\n#### Step 2\nso it is 4", "### Step\n#### Step 2\nso it is 4"),
    ],
)  # fmt: skip
def test_solutions_that_are_written_out(answer: str, read: str) -> None:
    row = {"question": "How many?", "answer": answer}
    assert canonical(row)["answer"] == read
    shape = canonical(row)
    assert canonical(shape) == shape
    # a row that has every column of the shape is read alike
    assert canonical(WHOLE | {"answer": answer})["answer"] == read
    assert canonical(WHOLE | {"answer": answer, "problem_type": "OCR"})["answer"] == answer


@pytest.mark.parametrize(
    ("problem", "answer", "read"),
    [
        ("Which?\nA. 10\nB. 12", "B. 12", "B"), ("Which?\nA. 10\nB. 12", "(B)", "(B)"), ("(a) 10\n(b) 12", "b", "b"),
        ("Which? A 10 B 12 C 14", "B", "B"), ("A\u300110\nB\u300112", "B", "B"), ("A. 10\nB. 12", "\\boxed{B}", "B"),
    ],
)  # fmt: skip
def test_letters_that_the_question_lists(problem: str, answer: str, read: str) -> None:
    row = {"problem": problem, "answer": answer}
    assert canonical(row)["problem_type"] == "multiple choice"
    assert score(COMPLETION.format(read.strip("()").upper()), row).accuracy == 1
    assert score(COMPLETION.format("C"), row).accuracy == 0
    assert gold_error(row) is None


@pytest.mark.parametrize(("problem", "answer"), [("Solve x + 2 = B.", "B"), ("A. 10\nB. 12", "B. 13"), ("A. 10", "12")])
def test_letters_that_it_does_not(problem: str, answer: str) -> None:
    assert canonical({"problem": problem, "answer": answer})["problem_type"] == "math"


@pytest.mark.parametrize(
    "changes",
    [
        {"solution": "We add 3 and 4.\nSo it is 7, as asked."}, {"solution": "<answer>7</answer>"}, {"solution": "7.0"},
        {"solution": "\\boxed{7}"}, {"solution": "\\frac{14}{2}"}, {"solution": 7}, {"ground_truth": "7"},
        {"solution": "seven"}, {"solution": "B"}, {"solution": "7.01"}, {"solution": "7 cm"}, {"solution": "700%"},
        {"demonstration": "<think>a</think>\n<answer>7</answer>"}, {"images": ["./a.png"]}, {"images": ["file://a.png"]},
    ],
)  # fmt: skip
def test_rows_that_are_right(root: Path, changes: dict[str, Any]) -> None:
    assert found(root, WHOLE | changes) == []
    assert found(root, WHOLE | {"images": [f"file://{root}/a.png"]}) == []


def test_blanks_do_not_hide_a_duplicate(root: Path) -> None:
    file = root / "f.jsonl"
    file.write_text(json.dumps(CHOICE) + "\n" + json.dumps(CHOICE | {"problem": "<image>  Which? "}) + "\n")
    [(kind, message)] = FileCheck(RowReader(root), TASKS).run([str(file)]).warnings
    assert kind == "duplicate"
    assert message.endswith("line 2: the same row as " + f"{file}, line 1")


ROWS = (
    WHOLE,
    CHOICE,
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}], "image": "a.png",
     "solution": "3", "task": "ocr"},
    {"messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "3"}], "images": ["a.png"],
     "objects": {"ref": ["a"], "bbox": [[1, 2, 3, 4]], "bbox_type": "real"}, "task_type": "ocr"},
    {"prompt": [{"role": "user", "content": "<image>q"}], "images": [{"image": "a.png"}], "data_source": "s",
     "reward_model": {"style": "rule", "ground_truth": "4"}},
    {"problem": "q", "solution": [1, 2, 3, 4], "image": "a.png", "width": 8, "height": 8},
    {"question": "c", "answer": ["dog"], "bbox": [1, 1, 5, 5], "image": "a.png", "task": "spatial_grounding"},
)  # fmt: skip
VALUES = (
    None, 0, 7, -1.5, 10**400, float("nan"), float("inf"), True, False, "", " ", "\n", "\0", "[", "['a']", "(" * 3000,
    "x" * 100_000, "file:///etc/passwd", "a.b.c", [], ["a"], [1, 2], [None], [["a"]], [[[1]]], [{}], ["x" * 100_000],
    {}, {"a": 1}, {"a": {"b": [1]}}, {"bytes": None, "path": None},
)  # fmt: skip


def changed(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Put each value in the place of each field, those inside objects and turns included."""
    for key, field in row.items():
        inner = field if isinstance(field, dict) else field[0] if isinstance(field, list) and field else None
        for value in VALUES:
            yield row | {key: value}
            for name in inner if isinstance(inner, dict) else ():
                other = copy.deepcopy(row)
                (other[key] if isinstance(field, dict) else other[key][0])[name] = value
                yield other


@pytest.mark.parametrize("row", ROWS, ids=lambda row: next(iter(row)))
def test_no_value_of_a_field_ends_in_a_traceback(root: Path, row: dict[str, Any]) -> None:
    for one in changed(row):
        for _, line in found(root, one):
            assert "\n" not in line
            assert len(line) < 600
        assert 0 <= score(COMPLETION.format("7"), one).total <= 1
        assert "\n" not in (gold_error(one) or "")


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside the checkout")
def test_the_shared_rows_are_refused_or_read(root: Path) -> None:
    cases = [json.loads(line) for line in (CASES / "rows" / "rows_data_check.jsonl").read_text().splitlines()]
    right = ("Python list", "list as one text", "options as a text")
    for case in cases:
        errors = found(root, case["row"])
        assert (len(errors) == 0) == any(word in case["today"] for word in right), (case, errors)
