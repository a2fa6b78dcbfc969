"""The verb compare: tables, a file and a page, and one line for each mistake."""

import json
from pathlib import Path

import pytest
from helpers.synthetic_runs import make_run, points, recipe

from lit_g2rpo.cli.verbs.compare import main
from lit_g2rpo.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds of two experiments; the last run is still going."""
    monkeypatch.chdir(tmp_path)
    for name, scope, gain in (("tasks", "task", 0.2), ("groups", "group", 0.3)):
        for seed in range(3):
            done = 90 if (name, seed) == ("groups", 2) else 150
            make_run(
                Path("runs") / name / f"version_{seed}",
                recipe(seed, name=name, scope=scope),
                points(seed, done, gain),
                page=True,
            )


def row(printed: str, *words: str) -> list[str]:
    return next(line.split() for line in printed.splitlines() if all(word in line for word in words))


@pytest.mark.usefixtures("runs")
def test_compare_prints_tables_and_writes_a_file_and_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "groups", "runs/tasks/version_1", "--target", "0.55"])
    printed = capsys.readouterr().out
    assert row(printed, "scope ", "task", "group") == ["scope", "task", "group"]
    assert "val/accuracy at rollout 150" in printed
    # the curves of a seed differ by the gain alone
    assert "+0.100 ±0.000 0.500" in " ".join(row(printed, "2", "scope=group", "2 of 3"))
    assert row(printed, "runs/groups/version_2")[2:6] == ["2", "90", "of", "150"]
    assert "note: 1 runs were named more than once" in printed
    assert "note: not yet at rollout 150, so in the curves alone: runs/groups/version_2 (90)" in printed
    found = json.loads(Path("comparison/compare.json").read_text())
    assert (found["metric"], found["target"], found["baseline"]) == ("val/accuracy", 0.55, "scope=task")
    page = Path("comparison/compare.html").read_text()
    assert "../runs/tasks/version_0/rollouts/index.html" in page


@pytest.mark.usefixtures("runs")
def test_the_first_of_what_runs_have_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", "--metric", "rollout/reward", "--at", "100", "--output", "there"])
    assert "rollout/reward at rollout 100" in capsys.readouterr().out
    for path in Path("runs").rglob("curves.jsonl"):
        path.write_text('{"rollout": 1, "train/loss": 2.0}\n')
    main(["runs"])
    assert "train/loss at rollout 1" in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
def test_many_groups_and_tasks_are_left_to_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        values = {f"val/accuracy/task_{k}": 0.5 for k in range(10)}
        made = recipe(0, clip=number)
        make_run(Path("many") / str(number), made, [{"rollout": 0, "val/accuracy": 0.5, **values}])
    main(["many"])
    printed = capsys.readouterr().out
    # too many groups for a column each
    assert row(printed, "clip ")[:5] == ["clip", "0", "(1);", "1", "(2);"]
    assert "note: 2 more tasks are on the page" in printed


@pytest.mark.usefixtures("runs")
def test_values_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs/[bold]"), recipe(0, scope="[red]"), points(0, 1))
    main(["runs"])
    printed = capsys.readouterr().out
    assert "scope=[red]" in printed
    assert "runs/[bold]" in printed


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "nowhere: neither a folder nor the name of an experiment; runs holds groups, tasks"),
        (["tasks", "--at", "soon"], "'soon' is not a whole number of rollouts"),
        (["tasks", "--target", "nan"], "'nan' is not a number; give one such as 0.7"),
        (["tasks", "--at", "1000"], "--at 1000: no run has come so far; the longest has 150"),
        (
            ["tasks", "--metric", "val/acuracy"],
            "--metric val/acuracy: no run has it; runs have, among 10, val/accuracy",
        ),
        (["tasks", "--baseline", "grpo"], r"--baseline grpo: no such group; the groups are 1 \(tasks\)"),
        (["tasks", "--output", "runs/tasks/version_0/config.yaml"], "config.yaml is a file; give a folder"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        main(words)
    assert "\n" not in str(raised.value)
    assert not Path("comparison").exists()
