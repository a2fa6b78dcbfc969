"""Which runs are found, how they are grouped, what is compared, and what it cost."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic_runs import make_run, points, recipe
from scipy import stats

from lit_g2rpo.comparison.compare import Options, compare, to_target
from lit_g2rpo.comparison.costs import cost, cost_to
from lit_g2rpo.comparison.finding import find_runs
from lit_g2rpo.comparison.groups import form_groups, short_keys
from lit_g2rpo.comparison.report import report, rounded
from lit_g2rpo.comparison.runs import curves_of, flat, read_run
from lit_g2rpo.comparison.statistics import Estimate
from lit_g2rpo.comparison.words import amount, duration, interval, ranges
from lit_g2rpo.errors import UserError


def arm(root: Path, place: str, seeds: range, gain: float = 0.2, rollouts: int = 150, **changed: object) -> list[Path]:
    """A run for each seed, whose curves differ by seed and gain alone."""
    return [
        make_run(root / place / f"version_{seed}", recipe(seed, **changed), points(seed, rollouts, gain))
        for seed in seeds
    ]


def read(folders: list[Path]) -> list:
    runs = [read_run(folder) for folder in folders]
    assert [problem for _, problem in runs if problem] == []
    return [run for run, _ in runs]


# ---- finding


def test_runs_are_found_by_folder_pattern_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 2, 10):
        make_run(Path("runs/first") / f"version_{number}", recipe(number), points(0, 1))
    make_run(Path("runs/second/deep/version_0"), recipe(0), points(0, 1))
    first = [Path(f"runs/first/version_{number}") for number in (0, 2, 10)]
    assert find_runs(["runs/first/version_2"])[0] == first[1:2]
    assert find_runs(["first"])[0] == find_runs(["runs/first"])[0] == find_runs(["runs/first/*"])[0] == first
    assert find_runs(["runs"])[0] == [*first, Path("runs/second/deep/version_0")]
    assert find_runs(["fir*"])[0] == first
    odd = make_run(Path("runs/[a]"), recipe(0), points(0, 1))
    assert find_runs(["runs/[a]"])[0] == [odd]
    assert find_runs(["first", str(tmp_path / "runs/first/version_0")]) == (first, 1)


def test_words_that_mean_no_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/g2rpo/version_0"), recipe(0), points(0, 1))
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"g2rop: neither .* did you mean g2rpo\?"):
        find_runs(["g2rop"])
    with pytest.raises(UserError, match=r"zz\*: no folder matches"):
        find_runs(["zz*"])
    with pytest.raises(UserError, match="empty: no run lies there"):
        find_runs(["empty"])


# ---- reading


def test_a_damaged_run_is_said_in_one_line(tmp_path: Path) -> None:
    folders = arm(tmp_path, "arm", range(6), rollouts=3)
    curves = folders[0] / "curves.jsonl"
    curves.write_text(curves.read_text().replace('{"rollout": 2', '{"rollout" 2'))
    (folders[1] / "curves.jsonl").unlink()
    (folders[2] / "curves.jsonl").write_text("")
    (folders[3] / "curves.jsonl").write_bytes(b"\x00\xff\n{}\n")
    (folders[4] / "config.yaml").write_text("a: [1")
    (folders[5] / "config.yaml").unlink()
    found = [read_run(folder) for folder in folders]
    first = found[0][0]
    assert first is not None
    assert first.rollouts == 1
    assert "line 3 of" in found[0][1]
    assert "damaged" in found[0][1]
    assert [run for run, _ in found[1:]] == [None] * 5
    for (_, problem), part in zip(
        found[1:],
        ("it has no curves", "holds no point yet", "line 1 of", "read as YAML", "no config.yaml"),
        strict=True,
    ):
        assert part in problem
        assert "\n" not in problem


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    (folder,) = arm(tmp_path, "arm", range(1), rollouts=4)
    with (folder / "curves.jsonl").open("a") as file:
        file.write('{"rollout": 5, "val/acc')
    run, problem = read_run(folder)
    assert problem == ""
    assert run is not None
    assert (run.rollouts, run.planned) == (4, 150)


def test_points_become_columns() -> None:
    curves = curves_of(
        [
            {"rollout": 0, "time": 5.0, "a": 1.0, "gone": None},
            {"rollout": 2, "time": 6.0, "a": float("inf"), "b": "text"},
            {"rollout": 3, "time": 7.0, "b": 4.0},
        ]
    )
    assert curves.rollouts.tolist() == [0, 2, 3]
    assert set(curves.metrics) == {"a", "b"}
    assert curves.metrics["a"] == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)
    assert curves.metrics["b"] == pytest.approx([np.nan, np.nan, 4.0], nan_ok=True)


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


# ---- groups


def test_seeds_and_places_make_no_group(tmp_path: Path) -> None:
    folders = arm(tmp_path, "arm", range(3))
    folders += arm(tmp_path, "other", range(3, 5), name="elsewhere", **{"data.init_args.seed": 7})
    groups, notes = form_groups(read(folders))
    assert [(group.name, len(group.runs)) for group in groups] == [("made", 5)]
    # a seed of the data that does not follow the run's own is part of what pairs
    assert list(groups[0].runs) == [(0,), (1,), (2,), (3, "data.init_args.seed=7"), (4, "data.init_args.seed=7")]
    assert notes == []


def test_groups_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(1))
    folders += arm(tmp_path, "b", range(1), scope="group")
    folders += arm(
        tmp_path, "c", range(1), **{"model.objective.class_path": "lit_g2rpo.objectives.GRPO", "scope": None}
    )
    folders += arm(tmp_path, "d", range(1), **{"model.objective.class_path": "lit_g2rpo.objectives.GRPO", "lr": 1e-3})
    for folder in folders[2:3]:
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("      scope: null\n", ""))
    groups, _ = form_groups(read(folders))
    assert [group.name for group in groups] == [
        "G2RPO, scope=task",
        "G2RPO, scope=group",
        "GRPO, no scope",
        "GRPO, scope=task",
    ]
    scope = "model.objective.init_args.scope"
    assert [group.values[scope] for group in groups] == ["task", "group", "-", "task"]
    assert [group.values["model.objective.class_path"] for group in groups] == ["G2RPO", "G2RPO", "GRPO", "GRPO"]


def test_arguments_of_another_class_are_no_difference_of_their_own(tmp_path: Path) -> None:
    def made(place: str, **arguments: object) -> Path:
        changed = {"model.optimizer": {"class_path": arguments.pop("cls"), "init_args": arguments}}
        return make_run(tmp_path / place, recipe(0, **changed), points(0, 1))

    folders = [made("a", cls="torch.Adam", lr=0.1, eps=1.0), made("b", cls="torch.SGD", lr=0.2)]
    assert list(form_groups(read(folders))[0][0].values) == [
        "model.optimizer.class_path",
        "model.optimizer.init_args.lr",
    ]
    # two of one class differ, so it is one
    folders.append(made("c", cls="torch.Adam", lr=0.1, eps=2.0))
    groups, _ = form_groups(read(folders))
    assert [group.values["model.optimizer.init_args.eps"] for group in groups] == ["1.0", "-", "2.0"]
    # so it is if one of the class that has it does without
    folders[2] = made("d", cls="torch.Adam", lr=0.1)
    assert [group.values["model.optimizer.init_args.eps"] for group in form_groups(read(folders))[0]] == [
        "1.0",
        "-",
        "-",
    ]


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(1))
    folders += arm(tmp_path, "b", range(1), **{"model.objective.class_path": "mine.G2RPO"})
    groups, _ = form_groups(read(folders))
    assert [group.name for group in groups] == ["lit_g2rpo.objectives.G2RPO", "mine.G2RPO"]


def test_a_reference_is_no_difference_of_its_own(tmp_path: Path) -> None:
    every = "trainer.callbacks"
    same = [{"class_path": "lit_g2rpo.callbacks.BandPlots", "init_args": {"every_rollouts": 25}}]
    other = [{"class_path": "lit_g2rpo.callbacks.BandPlots", "init_args": {"every_rollouts": 30}}]
    folders = arm(tmp_path, "a", range(1)) + arm(tmp_path, "b", range(1, 2), **{every: same})
    assert len(form_groups(read(folders))[0]) == 1
    folders += arm(tmp_path, "c", range(2), **{"schedule.validate_every": 50}) + arm(
        tmp_path, "d", range(2), **{every: other}
    )
    groups, _ = form_groups(read(folders))
    plots = "trainer.callbacks.BandPlots.init_args.every_rollouts"
    assert [(group.values["schedule.validate_every"], group.values[plots]) for group in groups] == [
        ("25", "25"),
        ("50", "50"),
        ("25", "30"),
    ]
    assert len(form_groups(read(folders), ["trainer", "schedule.*"])[0]) == 1


def test_two_runs_of_one_seed_count_once(tmp_path: Path) -> None:
    folders = arm(tmp_path, "short", range(1), rollouts=20) + arm(tmp_path, "long", range(1), rollouts=30)
    for order in (folders, folders[::-1]):
        groups, notes = form_groups(read(order))
        assert [run.rollouts for run in groups[0].runs.values()] == [30]
        assert len(notes) == 1
        assert notes[0].startswith(f"{folders[0]} is left out: {folders[1]} has the same recipe and seed 0")


def test_keys_are_shortened_as_far_as_they_stay_apart() -> None:
    keys = ["model.optimizer.init_args.lr", "model.objective.class_path", "data.val.limit", "data.test.limit"]
    assert list(short_keys(keys).values()) == ["lr", "objective", "val.limit", "test.limit"]


def test_parts_of_a_list_of_classes_are_named() -> None:
    value = {"c": [{"class_path": "a.B", "init_args": {"x": 1}}, {"class_path": "z.B"}], "l": [1, 2], "e": {}}
    assert dict(flat(value)) == {
        "c.B.class_path": "a.B",
        "c.B.init_args.x": 1,
        "c.B.1.class_path": "z.B",
        "l": [1, 2],
        "e": {},
    }


# ---- figures


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


def test_the_mean_and_the_best_of_a_curve(tmp_path: Path) -> None:
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


def test_a_metric_that_some_runs_lack(tmp_path: Path) -> None:
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
    assert "2 versions of the code: aaa (2 runs), bbb (1 runs)" in compare(folders, Options()).notes


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


# ---- costs


def test_costs_are_tokens_and_seconds_of_training() -> None:
    curves = curves_of(points(0, 50, gain=0.3))
    total = cost(curves)
    # 0.5 s of sampling at 2000 tokens a second, and 1 s in all, each rollout
    assert (total.rollouts, total.tokens, total.seconds) == pytest.approx((50, 50 * 1000.0, 50 * 1.0))
    start = curves.metrics["val/accuracy"][0]
    reached = cost_to(curves, "val/accuracy", start + 0.04)
    assert reached is not None
    assert (reached.rollouts, reached.tokens, reached.seconds) == pytest.approx((25, 25_000.0, 25.0))
    assert cost_to(curves, "val/accuracy", 2.0) is None
    assert cost_to(curves, "no/such", 0.1) is None


def test_a_logged_rollout_stands_for_those_that_are_not() -> None:
    every_fifth = [point for point in points(0, 50) if point["rollout"] % 5 == 0]
    assert cost(curves_of(every_fifth)).tokens == pytest.approx(50_000.0)
    went_on = [point for point in points(0, 50) if point["rollout"] > 20]
    assert cost(curves_of(went_on)).tokens == pytest.approx(30_000.0)


def test_what_was_not_logged_costs_nothing_that_is_known() -> None:
    total = cost(curves_of([{"rollout": 3, "time": 1.0, "val/accuracy": 0.5}]))
    assert (total.rollouts, total.tokens, total.seconds) == (3, None, None)


def test_a_mean_to_the_target_needs_every_run(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(2), gain=0.3) + arm(tmp_path, "b", range(2), gain=0.0, scope="group")
    found = compare(folders, Options(target=0.55))
    reached, spent = to_target(found.costs[0])
    assert reached == 2
    assert spent["tokens"].mean == pytest.approx(1000 * spent["rollouts"].mean)
    assert to_target(found.costs[1]) == (0, {})
    one = [found.costs[0][0], replace(found.costs[0][1], to_target=None)]
    assert to_target(one) == (1, {})


# ---- what programs read


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


def test_figures_in_words() -> None:
    assert [amount(value) for value in (None, 950, 12_345, 4.56e6, 7.891e9)] == [
        "",
        "950",
        "12.3 k",
        "4.56 M",
        "7.89 G",
    ]
    assert [duration(value) for value in (None, 45.4, 200.0, 18_420.0)] == ["", "45 s", "3:20 min", "5:07 h"]
    assert [ranges(numbers) for numbers in ([], [4], [1, 2], [1, 2, 3, 5, 7, 8])] == ["", "4", "1-2", "1-3, 5, 7-8"]
