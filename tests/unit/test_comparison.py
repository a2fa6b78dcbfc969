"""What is compared, where, and how it is reported."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic_runs import arm, make_run, points, recipe
from scipy import stats

from lit_g2rpo.comparison.compare import Options, compare
from lit_g2rpo.comparison.report import report, rounded
from lit_g2rpo.comparison.statistics import Estimate
from lit_g2rpo.comparison.words import amount, duration, interval, ranges
from lit_g2rpo.errors import UserError


def test_figures_are_means_intervals_and_paired_differences(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(5)) + arm(tmp_path, "b", range(1, 6), gain=0.26, scope="group")
    found = compare(folders, Options())
    last = {name: [] for name in "ab"}
    for folder in folders:
        point = json.loads((folder / "curves.jsonl").read_text().splitlines()[-1])
        last[folder.parent.name].append(point["val/accuracy"])
    figures = found.metrics["val/accuracy"].figures["last"]
    for figure, values in zip(figures, last.values(), strict=True):
        assert figure.estimate is not None
        assert (figure.estimate.low, figure.estimate.high) == pytest.approx(
            stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
        )
    difference = figures[1].difference
    assert difference is not None
    assert difference.seeds == ((1,), (2,), (3,), (4,))
    # the curves of a seed differ by the gain alone
    assert difference.differences == pytest.approx([0.06] * 4)
    assert difference.p == 2 / 2**4
    assert figures[0].difference is None
    assert "group 2: 4 of 5 seeds pair with those of group 1" in found.notes


def test_a_curve_has_a_last_value_a_mean_and_a_best_one_if_it_is_an_accuracy(tmp_path: Path) -> None:
    (folder,) = arm(tmp_path, "a", range(1), rollouts=1)
    values = [0.5, 0.9, 0.7]
    lines = [json.dumps({"rollout": 25 * k, "val/accuracy": v, "val/length": v}) for k, v in enumerate(values)]
    (folder / "curves.jsonl").write_text("\n".join(lines) + "\n")
    found = compare([folder], Options())
    figures = found.metrics["val/accuracy"].figures
    estimates = {name: figure[0].estimate for name, figure in figures.items()}
    assert {name: value.mean for name, value in estimates.items() if value} == pytest.approx(
        {"last": 0.7, "mean": 0.7, "best": 0.9}
    )
    assert all(value is not None and value.low is None for value in estimates.values())
    # what is best is known of accuracies alone
    assert set(found.metrics["val/length"].figures) == {"last", "mean"}
    assert any(note.startswith("one seed, so no interval") for note in found.notes)


def test_runs_of_unequal_length_are_compared_where_most_are(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(3)) + arm(tmp_path, "a", range(3, 4), rollouts=80)
    found = compare(folders, Options())
    accuracy = found.metrics["val/accuracy"]
    assert accuracy.common == 150
    assert len(accuracy.figures["last"][0].by_seed) == 3
    assert f"not yet at rollout 150, so in the curves alone: {folders[3]} (80)" in found.notes
    # curves have what there is
    assert accuracy.rollouts.tolist() == list(range(0, 151, 25))
    assert accuracy.bands[0].n.tolist() == [4, 4, 4, 4, 3, 3, 3]
    earlier = compare(folders, Options(at=80))
    assert earlier.metrics["val/accuracy"].common == 75
    assert earlier.metrics["rollout/reward"].common == 80
    assert len(earlier.metrics["val/accuracy"].figures["last"][0].by_seed) == 4
    assert any(note.startswith("figures are those up to rollout 80; the longest run has 150") for note in earlier.notes)
    with pytest.raises(UserError, match="--at 151: no run has come so far; the longest has 150"):
        compare(folders, Options(at=151))


def test_half_of_the_groups_decide_where_runs_are_compared(tmp_path: Path) -> None:
    lengths = {"a": [150, 150, 3], "b": [90, 90, 90], "c": [5]}
    folders = [
        make_run(tmp_path / name / str(seed), recipe(seed, scope=name), points(seed, rollouts))
        for name, group in lengths.items()
        for seed, rollouts in enumerate(group)
    ]
    found = compare(folders, Options())
    assert found.metrics["rollout/reward"].common == 90
    assert [len(figure.by_seed) for figure in found.metrics["rollout/reward"].figures["last"]] == [2, 3, 0]
    # two runs leave none out
    assert compare([folders[0], folders[3]], Options()).metrics["rollout/reward"].common == 90
    gone = compare(folders, Options(baseline="3"))
    assert any(note.startswith("group 3, the baseline, has no figures") for note in gone.notes)


def test_runs_that_lack_a_metric_are_left_out_of_its_figures(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(2)) + arm(tmp_path, "b", range(2), scope="group")
    for folder in folders[1:]:
        path = folder / "curves.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(json.dumps({k: v for k, v in line.items() if k != "val/accuracy/ocr"}) + "\n" for line in lines)
        )
    figures = compare(folders, Options()).metrics["val/accuracy/ocr"].figures["last"]
    assert figures[0].estimate is not None
    assert figures[0].estimate.n == 1
    assert (figures[1].estimate, figures[1].difference) == (None, None)


def test_a_metric_without_a_common_rollout_gives_curves_alone(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(2))
    for number, folder in enumerate(folders):
        (folder / "curves.jsonl").write_text(json.dumps({"rollout": 3 + number, "val/accuracy": 0.5}) + "\n")
    found = compare(folders, Options())
    assert found.metrics["val/accuracy"].common is None
    assert found.target is None
    assert any("no rollout that all runs share" in note for note in found.notes)
    json.dumps(report(found), allow_nan=False)


def test_the_baseline_is_the_first_group_or_the_one_named(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(2)) + arm(tmp_path, "b", range(2), gain=0.3, scope="group")
    for name in ("2", "scope=group"):
        found = compare(folders, Options(baseline=name))
        difference = found.metrics["val/accuracy"].figures["last"][0].difference
        assert difference is not None
        assert difference.estimate.mean == pytest.approx(-0.1)
    with pytest.raises(UserError, match=r"the groups are 1 \(scope=task\), 2 \(scope=group\)"):
        compare(folders, Options(baseline="3"))


def test_different_code_is_said(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(3))
    for folder, commit in zip(folders, ("aaa", "aaa", "bbb"), strict=True):
        (folder / "versions.json").write_text(json.dumps({"commit": commit, "device": "cpu", "ranks": 1}))
    assert "2 versions of the code: aaa (2 runs), bbb (1 run)" in compare(folders, Options()).notes


def test_no_run_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    (folder,) = arm(tmp_path, "a", range(1))
    (folder / "curves.jsonl").unlink()
    with pytest.raises(UserError, match=r"no run can be compared: .* it has no curves"):
        compare([folder], Options())
    (folder / "curves.jsonl").write_text('{"rollout": 0, "time": 1.0, "val/accuracy": NaN}\n')
    with pytest.raises(UserError, match="none has a metric with a finite value"):
        compare([folder], Options())
    (folder / "curves.jsonl").write_text('{"rollout": Infinity}\n')
    with pytest.raises(UserError, match=r"line 1 of curves\.jsonl is damaged"):
        compare([folder], Options())


def test_values_too_large_to_average_are_not_there(tmp_path: Path) -> None:
    folders = arm(tmp_path, "arm", range(2), rollouts=2)
    for folder, value in zip(folders, (1.7e308, -1.7e308), strict=True):
        more = [{"rollout": 1, "large": value, "whole": 10**400}, {"rollout": 2, "large": 1e90, "whole": 1}]
        with (folder / "curves.jsonl").open("a") as file:
            file.writelines(f"{json.dumps(point)}\n" for point in more)
    found = compare(folders, Options())
    large, whole = found.metrics["large"], found.metrics["whole"]
    assert (large.rollouts.tolist(), whole.rollouts.tolist()) == ([2], [2])
    assert large.bands[0].half.tolist() == [0.0]
    json.dumps(report(found), allow_nan=False)


def test_the_report_has_every_figure_and_no_nan(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(3)) + arm(tmp_path, "b", range(2), gain=0.3, scope="group")
    found = json.loads(json.dumps(report(compare(folders, Options(target=0.6))), allow_nan=False))
    assert found["differing_keys"] == {
        "model.objective.init_args.scope": {"scope=task": "task", "scope=group": "group"}
    }
    assert [run["group"] for run in found["runs"]] == ["scope=task"] * 3 + ["scope=group"] * 2
    assert found["runs"][0]["tokens"] == 150_000
    figure = found["metrics"]["val/accuracy"]["figures"]["last"]["scope=group"]
    assert figure["difference"]["by_seed"] == pytest.approx({"0": 0.1, "1": 0.1})
    assert (figure["difference"]["p"], figure["difference"]["exact"]) == (0.5, True)
    curve = found["metrics"]["val/accuracy"]["curves"]
    assert curve["rollouts"] == list(range(0, 151, 25))
    assert curve["groups"]["scope=task"]["n"] == [3] * 7
    assert len(curve["groups"]["scope=task"]["half_width"]) == 7


def test_rounding_keeps_significant_digits() -> None:
    values = [0.123456789, -123456.789, 0.0, float("nan"), 1.5e-300]
    assert rounded(values, 4) == [0.1235, -123500.0, 0.0, None, 1.5e-300]


def test_a_difference_that_rounds_to_zero_is_not_negative() -> None:
    assert interval(Estimate(2, -1e-17, 0.1, -0.2, 0.2), "+z.3f") == "+0.000 ±0.200"
    assert interval(Estimate(1, -0.002), "+z.3f") == "-0.002"


def test_figures_are_written_with_their_units() -> None:
    assert [amount(value) for value in (None, 950, 12_345, 4.56e6, 7.891e9)] == [
        "",
        "950",
        "12.3 k",
        "4.56 M",
        "7.89 G",
    ]
    assert [duration(value) for value in (None, 45.4, 200.0, 18_420.0)] == ["", "45 s", "3:20 min", "5:07 h"]
    assert [ranges(numbers) for numbers in ([], [4], [1, 2], [1, 2, 3, 5, 7, 8])] == ["", "4", "1-2", "1-3, 5, 7-8"]
