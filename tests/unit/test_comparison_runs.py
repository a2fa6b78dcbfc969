"""Which runs are found, and what is read of them."""

from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic_runs import arm, make_run, points, recipe

from lit_g2rpo.comparison.finding import find_runs
from lit_g2rpo.comparison.runs import curves_of, flat, read_run
from lit_g2rpo.errors import UserError


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


def test_parts_of_a_list_of_classes_are_named() -> None:
    value = {"c": [{"class_path": "a.B", "init_args": {"x": 1}}, {"class_path": "z.B"}], "l": [1, 2], "e": {}}
    assert dict(flat(value)) == {
        "c.B.class_path": "a.B",
        "c.B.init_args.x": 1,
        "c.B.1.class_path": "z.B",
        "l": [1, 2],
        "e": {},
    }
