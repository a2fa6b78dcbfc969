"""A problem type and a benchmark from outside the package, named in data rows by their import path."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_g2rpo.callbacks.plots.advantage_topology import topology_sets
from lit_g2rpo.callbacks.rollouts.record import shapes
from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.json_rows import JsonRows, to_prompt
from lit_g2rpo.data.files.readers import read_rows
from lit_g2rpo.data.files.row_errors import check_row, row_error
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.messages import answer_form
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmarks import Benchmark, benchmark_error, benchmark_named
from lit_g2rpo.evaluation.report import summarize
from lit_g2rpo.evaluation.rows import verdict
from lit_g2rpo.experience import RolloutTable
from lit_g2rpo.rewards import (
    PROBLEM_TYPES,
    ProblemType,
    RewardConfig,
    compared,
    problem_type_id,
    problem_type_named,
    problem_type_of_id,
    score,
)
from lit_g2rpo.rewards.gold import gold_completion, gold_error
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.tasks import TASKS, Task


def colour(text: str) -> str | None:
    return text.strip().casefold() if text.strip().isalpha() else None


COLOUR = ProblemType(
    rule=compared(colour, colour, lambda answer, gold: answer == gold),
    answer_form="Give only the colour, for example <answer>red</answer>.",
    gold_form="a colour in one word",
    style="vision",
    task="ocr",
    draw=lambda answer: ([(0.0, 0.0, 1000.0, 1000.0)], []) if colour(answer) else ([], []),
)
SHADES = Benchmark(
    title="Shades", metric="accuracy", rule=lambda answer, row: float(answer == row["answer"]),
    words="the same word", source="nowhere", columns=("shade",), subsets={"shade": ("light", "dark")},
)  # fmt: skip
NAME, BENCHMARK = f"{__name__}.COLOUR", f"{__name__}.SHADES"
RIGHT = "<thinking>look</thinking><answer>Red</answer>"


def row(**changes: Any) -> dict[str, Any]:
    return {"problem": "Which colour?", "problem_type": NAME, "answer": "red", "images": []} | changes


@pytest.mark.parametrize(
    ("answer", "accuracy", "error"), [("Red", 1, None), ("blue", 0, None), ("4", 0, "unparsed"), ("", 0, "no_answer")]
)
def test_it_is_scored(answer: str, accuracy: float, error: str | None) -> None:
    result = score(f"<thinking>look</thinking><answer>{answer}</answer>", row())
    assert (result.accuracy, result.error) == (accuracy, error)
    assert score(RIGHT, row(), RewardConfig(style="onethinker")).total == 1.5


def test_it_is_scored_in_the_threads_of_a_scorer() -> None:
    scorer = Scorer(in_process=["ocr"])
    results = scorer.score(Batch([RIGHT] * 40, [row()] * 40, ["ocr"] * 40))
    scorer.close()
    assert [result.total for result in results] == [1.0] * 40


def test_its_rows_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row(answer=answer)) for answer in ("red", "red or blue")))
    reader, rows = RowReader(tmp_path), read_rows(path)
    [(good, place)] = reader.read(rows, 0)
    assert (good["task_type"], row_error(good, TASKS)) == ("ocr", None)
    check_row(good, place, TASKS, tmp_path, RewardConfig())
    text = to_prompt(good, "1", [], RewardConfig(answer_tag="final")).messages[0]["content"][0]["text"]
    assert text.endswith("Give only the colour, for example <final>red</final>.")
    [(bad, place)] = reader.read(rows, 1)
    with pytest.raises(UserError, match=r"cannot be scored \(bad_gold\); it must be a colour in one word"):
        check_row(bad, place, TASKS, tmp_path, RewardConfig())
    report = FileCheck(reader, TASKS).run([str(path)])
    assert [kind for kind, _ in report.errors] == ["gold"]
    assert report.kinds["ocr", NAME].rows == 2


def test_its_gold_answer_wording_style_and_drawing() -> None:
    assert gold_error(row()) is None
    assert score(gold_completion(row()), row()).total == 1
    assert canonical(row(answer="I see \\boxed{red}"))["answer"] == "red"
    assert "for example <answer>red</answer>" in answer_form(NAME)
    assert problem_type_named(NAME).style == "vision"
    assert shapes(NAME, "red") == {"boxes": [(0, 0, 1000, 1000)], "points": []}
    assert shapes(NAME, "4") == {"boxes": [], "points": []}


def test_ids_are_those_of_the_names() -> None:
    assert [problem_type_id(name) for name in PROBLEM_TYPES] == list(range(len(PROBLEM_TYPES)))
    number = problem_type_id(NAME)
    assert number >= 2**32
    assert float(number) == int(torch.tensor(number, dtype=torch.float64).long()) == number
    assert problem_type_id(f"{__name__}.OTHER") != number
    # not hash(), which differs between processes
    assert problem_type_id("colours.COLOUR") == 2**32 + 0x2E5AEDFF
    assert problem_type_named(NAME) is COLOUR
    assert problem_type_of_id(number) == NAME
    assert problem_type_of_id(number + 1) == str(number + 1)


def test_its_name_stands_in_metrics() -> None:
    assert problem_type_named(NAME) is COLOUR
    ids = torch.tensor([problem_type_id(NAME), 0])
    table = RolloutTable(
        rewards=torch.zeros(2, 1), lengths=torch.ones(2, 1).long(), valid=torch.ones(2, 1).bool(),
        entropy_counts=torch.ones(2, 1).bool(), advantages=torch.zeros(2, 1), task_ids=torch.zeros(2).long(),
        problem_type_ids=ids, entropy_direction=torch.zeros(1),
    )  # fmt: skip
    assert set(topology_sets(table, ["ocr"])) == {"ocr", "type/multiple_choice", f"type/{NAME}"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dance", "unknown problem_type 'dance'; known: multiple choice, numerical"),
        ("e.g. this", "unknown problem_type 'e.g. this'"),
        ("colours.py:COLOUR", "unknown problem_type 'colours.py:COLOUR'"),
        (7, "unknown problem_type 7"),
        (["math"], "unknown problem_type"),
        (f"{__name__}.GONE", "but its module has no 'GONE'"),
        ("no.module.COLOUR", "whose module cannot be imported"),
        (f"{__name__}.NAME", "a str; it must be a ProblemType"),
        (BENCHMARK, "a Benchmark; it must be a ProblemType"),
    ],
)
def test_a_name_that_finds_no_type(name: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        problem_type_named(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert message in str(gold_error(row(problem_type=name)))
    assert message in str(row_error(canonical(row(problem_type=name)) | {"task_type": "ocr"}, TASKS))
    assert score(RIGHT, row(problem_type=name)).error == "unknown_problem_type"


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"problem_type": "OCR"}, True),
        ({}, False),
        ({"problem_type": "OCR", "benchmark": BENCHMARK, "shade": "dark"}, False),
    ],
)
def test_a_check_by_rules_from_outside_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kept: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    # one such row among others is enough
    path.write_text("\n".join(map(json.dumps, (row(**changes), row(problem_type="OCR")))))
    os.utime(path, (time.time() - 60,) * 2)
    checks = 0
    check = JsonRows._check

    def counted(rows: JsonRows, *given: Any) -> Any:
        nonlocal checks
        checks += 1
        return check(rows, *given)

    monkeypatch.setattr(JsonRows, "_check", counted)
    for _ in range(2):
        assert JsonRows([path], RowReader(tmp_path), {"ocr": Task("ocr")}, RewardConfig()).task_names() == ["ocr"] * 2
    assert checks == (1 if kept else 2)


def test_a_benchmark() -> None:
    of = {"benchmark": BENCHMARK, "problem_type": "OCR", "task_type": "ocr"}
    assert benchmark_named(BENCHMARK) is SHADES
    assert benchmark_error(row(**of, shade="dark")) is None
    assert benchmark_error(row(**of)) == f"benchmark {BENCHMARK} needs the columns answer, shade; missing: shade"
    assert "it must be a Benchmark" in str(benchmark_error(row(**of | {"benchmark": NAME})))
    rows = []
    for index, (shade, answer) in enumerate([("light", "red"), ("dark", "red"), ("dark", "blue")]):
        sample = row(**of, shade=shade)
        text = f"<thinking>look</thinking><answer>{answer}</answer>"
        found = verdict(text, sample, score(text, sample))
        rows.append({
            "index": index, "repeat": 0, "id": str(index), "task": "ocr", "benchmark": BENCHMARK, "sample": sample,
            "length": 3, "truncated": False, **found,
        })  # fmt: skip
    figures = summarize(rows)["tasks"][BENCHMARK]
    assert (figures["metric"], figures["rule"], figures["score"]) == ("accuracy", "strict", pytest.approx(2 / 3))
    assert figures["details"] == {"light": 1.0, "dark": 0.5, "mean over shade": 0.75}


BROKEN = Benchmark(title="Broken", metric="accuracy", rule=lambda answer, row: 1 / 0, words="nothing", source="nowhere")


def test_a_benchmark_whose_rule_fails_is_one_line_and_ends_no_evaluation() -> None:
    broken = row(benchmark=f"{__name__}.BROKEN")
    message = benchmark_error(canonical(broken))
    assert message == f"benchmark {__name__}.BROKEN: its rule fails (ZeroDivisionError: division by zero)"
    found = verdict(RIGHT, canonical(broken), score(RIGHT, broken))
    assert (found["error"], found["score"]) == ("ZeroDivisionError", 0.0)


@pytest.mark.parametrize(("value", "error"), [(7.0, "out_of_range"), (float("nan"), "not_finite")])
def test_a_rule_that_leaves_its_range_scores_nothing(value: float, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ProblemType(rule=compared(colour, colour, lambda answer, gold: value), answer_form="?", gold_form="?")
    monkeypatch.setattr(f"{__name__}.COLOUR", wrong)
    found = score(RIGHT, row())
    assert (found.accuracy, found.error) == (0.0, error)


def test_an_answer_that_cannot_be_drawn_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ProblemType(
        rule=compared(colour, colour, lambda answer, gold: 1.0),
        answer_form="?",
        gold_form="?",
        draw=lambda answer: 1 / 0,
    )
    monkeypatch.setattr(f"{__name__}.COLOUR", wrong)
    with pytest.warns(UserWarning, match="cannot draw an answer .ZeroDivisionError: division by zero.; it is left"):
        assert shapes(NAME, "red") == {"boxes": [], "points": []}
