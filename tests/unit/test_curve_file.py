"""The run's own file of curves."""

import json

from lit_g2rpo.training.curve_file import append_point, forget_points, read_points, scan_points


def test_points_of_one_rollout_join_and_later_ones_are_forgotten(tmp_path):
    path = tmp_path / "curves.jsonl"
    for rollout, values in ((0, {"val/accuracy": 0.5}), (1, {"a": 1.0}), (1, {"val/accuracy": 0.6}), (2, {"a": 2.0})):
        append_point(path, rollout, values)
    points = read_points(path)
    assert [point["rollout"] for point in points] == [0, 1, 2]
    assert (points[1]["a"], points[1]["val/accuracy"]) == (1.0, 0.6)
    forget_points(path, 1)
    assert [point["rollout"] for point in read_points(path)] == [0, 1]
    forget_points(path, -1)
    assert path.read_text() == ""


def test_a_line_cut_short_ends_the_points(tmp_path):
    path = tmp_path / "curves.jsonl"
    append_point(path, 1, {"a": float("nan")})
    with path.open("a") as file:
        file.write('{"rollout": 2, "a"')
    assert [point["rollout"] for point in read_points(path)] == [1]
    forget_points(path, 1)
    assert json.loads(path.read_text())["rollout"] == 1


def test_a_missing_file_holds_no_points(tmp_path):
    assert read_points(tmp_path / "curves.jsonl") == []
    forget_points(tmp_path / "curves.jsonl", 3)
    assert not (tmp_path / "curves.jsonl").exists()


def test_a_damaged_line_is_numbered_and_an_unfinished_one_is_not(tmp_path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"rollout": 1, "a": 1.0}\n[]\n{"rollout": 2, "a": 1.0}\n')
    assert scan_points(path) == ([{"rollout": 1, "a": 1.0}], 2)
    path.write_text('{"rollout": 1, "a": 1.0}\n{"rollout": 2')
    assert scan_points(path) == ([{"rollout": 1, "a": 1.0}], None)
    assert scan_points(tmp_path / "none") == ([], None)
