"""``reward test``: what a user sees for a file of completions."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_g2rpo.cli.verbs.reward import main
from lit_g2rpo.errors import UserError

LETTER = {
    "problem": "?",
    "problem_type": "multiple choice",
    "options": ["A. cat", "B. dog"],
    "answer": "<answer>B</answer>",
}
MATH = {"problem": "?", "problem_type": "math", "answer": "\\frac{1}{2}"}
GOOD = "<thinking>r</thinking><answer>B. dog</answer>"


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_the_table_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markup = "<thinking>r</thinking><answer>[red]2[/red]</answer>"
    half = "<thinking>r</thinking><answer>0.5</answer>"
    rows = ({**LETTER, "completion": GOOD}, {**MATH, "completions": [half, "0.5", markup]})
    main(["test", write(tmp_path / "rows.jsonl", *rows), "--json", str(tmp_path / "out.json")])
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["total"] for row in report["rows"]] == [1.0, 1.0, 0.0, pytest.approx(0.1)]
    assert [row["error"] for row in report["rows"]] == [None, None, "no_answer", None]
    assert [row["answer"] for row in report["rows"]] == ["B. dog", "0.5", None, "[red]2[/red]"]
    kinds = {entry["problem_type"]: entry for entry in report["summary"]}
    assert kinds["math"]["completions"] == 3
    assert kinds["math"]["accuracy"] == pytest.approx(1 / 3)
    assert kinds["math"]["errors"] == 1
    for word in ("line 1", "line 2", "B. dog", "no_answer", "[red]2[/red]", "\\frac{1}{2}", "0.333"):
        assert word in out


def test_without_completions_gold_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", write(tmp_path / "rows.jsonl", LETTER, MATH)])
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"1 of 2 gold answers do not score 1 .*line 2"):
        main(["test", write(tmp_path / "bad.jsonl", LETTER, {**LETTER, "answer": "C"})])


def test_a_json_array_and_other_formats(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "7"}, "completion": "7"}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, row]))
    main(["test", str(path), "--json", str(tmp_path / "out.json")])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["gold"] for row in rows] == ["7", "7"]
    assert rows[1]["place"] == f"{path}, row 2"


def test_rows_that_cannot_be_read_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "rows.jsonl", {**LETTER, "completion": GOOD}, "{", {"foo": 1}, {**LETTER, "completion": 7}, LETTER
    )
    with pytest.raises(
        UserError, match=r"rows\.jsonl: 4 rows cannot be read, the first: .*rows\.jsonl, line 2: not valid"
    ):
        main(["test", path])
    out = capsys.readouterr().out
    for number in (2, 3, 4, 5):
        assert f"unreadable: {path}, line {number}: " in out
    assert "B. dog" in out


def test_a_row_at_fault_fails_whatever_its_completions(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {**LETTER, "completion": GOOD}, {**LETTER, "answer": "Z", "completion": GOOD})
    with pytest.raises(UserError, match=r"^1 of 2 completions .*; .*rows\.jsonl, line 2: bad_gold"):
        main(["test", path])


def test_a_report_that_cannot_be_written_is_refused_before_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", {**LETTER, "completion": GOOD})
    for out, said in ((tmp_path / "none" / "out.json", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=f"--json: .*{said}"):
            main(["test", path, "--json", str(out)])
    assert capsys.readouterr().out == ""


def test_a_reward_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def f(completion, sample):\n    return {'total': 0.5, 'steps': 1 / ('bad' not in completion)}\n")
    main(["test", write(tmp_path / "a.jsonl", {**LETTER, "completion": GOOD}), "--reward", f"{mine}:f", "--in_process"])
    assert "0.500" in capsys.readouterr().out
    bad = write(tmp_path / "b.jsonl", {**LETTER, "completions": [GOOD, "bad"]})
    with pytest.raises(UserError, match=r"failed for 1 of 2 completions; .*ZeroDivisionError: division by zero"):
        main(["test", bad, "--reward", f"{mine}:f", "--in_process"])
    with pytest.raises(UserError, match=r"^--reward is 'none\.f', whose module cannot be imported"):
        main(["test", bad, "--reward", "none.f", "--in_process"])


def test_tags_and_style(tmp_path: Path) -> None:
    row = {**LETTER, "completion": "<think>r</think><answer>B</answer>"}
    path, out = write(tmp_path / "rows.jsonl", row), tmp_path / "out.json"
    main(["test", path, "--json", str(out)])
    assert json.loads(out.read_text())["rows"][0]["format"] == 0.0
    main(["test", path, "--json", str(out), "--thinking_tag", "think", "--style", "onethinker"])
    scored = json.loads(out.read_text())["rows"][0]
    assert (scored["format"], scored["structure"], scored["total"]) == (1.0, 0.5, 1.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test"], "the following arguments are required: FILE"),
        (["tset", "f"], "invalid choice: 'tset'"),
        (["test", "none.jsonl"], "none.jsonl: No such file"),
        (["test", "f.jsonl", "--stile", "x"], "unrecognized arguments: --stile"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(words)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        main(["test", write(tmp_path / "rows.jsonl")])
