"""What predictions come to: figures, intervals, repeats and baselines."""

import json

import numpy as np
import pytest

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.bootstrap import interval, resampled_means
from lit_g2rpo.evaluation.predictions import read_predictions
from lit_g2rpo.evaluation.report import Baseline, read_baseline, summarize
from lit_g2rpo.evaluation.table import show


def prediction(index, score, repeat=0, task="ocr", **columns):
    return {
        "index": index,
        "repeat": repeat,
        "id": f"row-{index}",
        "task": task,
        "benchmark": None,
        "completion": "",
        "value": score,
        "score": score,
        "error": None,
        "accuracy": score,
        "format": 1.0,
        "length": 10,
        "truncated": False,
        "sample": {},
    } | columns


def test_the_interval_is_that_of_the_normal_law():
    values = [1.0] * 60 + [0.0] * 140
    low, high = interval(resampled_means(values, 0))
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.01)
    assert interval(resampled_means(values, 0)) == [low, high]
    assert interval(resampled_means([0.4], 0)) == pytest.approx([0.4, 0.4])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = interval(resampled_means(generator.random(60) < 0.6, seed))
        covered += low <= 0.6 <= high
    assert 88 <= covered <= 99


def test_figures_per_task_and_their_mean():
    rows = [prediction(0, 1.0), prediction(1, 0.5), prediction(2, 0.0, task="math", truncated=True, length=40)]
    rows[1]["error"], rows[2]["error"] = "unparsed", "timeout"
    metrics = summarize(rows)
    ocr, math = metrics["tasks"]["ocr"], metrics["tasks"]["math"]
    assert (ocr["n"], ocr["score"], ocr["unparsed"], ocr["timeouts"], ocr["length"]) == (2, 0.75, 1, 0, 10)
    assert (math["n"], math["score"], math["unparsed"], math["timeouts"], math["truncated"]) == (1, 0, 0, 1, 1)
    assert (metrics["n"], metrics["score"], metrics["unparsed"], metrics["timeouts"]) == (3, 0.375, 1, 1)
    assert (ocr["metric"], ocr["rule"]) == ("reward accuracy", "reward")
    assert metrics["interval"][0] <= 0.375 <= metrics["interval"][1]


def test_rows_without_gold_have_no_score():
    rows = [prediction(0, None), prediction(1, None)]
    metrics = summarize(rows)
    assert metrics["tasks"]["ocr"]["n"] == 2
    assert metrics["score"] is None
    assert "interval" not in metrics
    show(metrics)


def test_repeats_give_mean_and_pass_at_k():
    scores = {0: (1, 0, 0), 1: (0, 0, 0), 2: (1, 1, 1), 3: (0, 1, 0)}
    rows = [prediction(i, float(s), repeat=k) for i, known in scores.items() for k, s in enumerate(known)]
    ocr = summarize(rows)["tasks"]["ocr"]
    assert ocr["n"] == 4
    assert ocr["score"] == pytest.approx(5 / 12)
    assert ocr["pass@3"] == 0.75
    # questions are resampled and not completions: twelve equal rows would give a narrower interval
    widths = np.diff(ocr["interval"])
    assert widths > np.diff(summarize([prediction(i, float(i < 5)) for i in range(12)])["interval"])


def test_a_benchmark_is_a_row_of_its_own_with_its_details():
    rows = [
        prediction(0, 1.0, benchmark="chartqa", sample={"type": "human"}),
        prediction(1, 0.0, benchmark="chartqa", sample={"type": "augmented"}, value=None, error="unparsed"),
        prediction(2, 1.0),
    ]
    metrics = summarize(rows)
    chartqa = metrics["tasks"]["chartqa"]
    assert (chartqa["metric"], chartqa["rule"], chartqa["score"]) == ("relaxed accuracy", "strict", 0.5)
    assert chartqa["details"] == {"human": 1.0, "augmented": 0.0, "mean over type": 0.5}
    assert list(metrics["tasks"]) == ["chartqa", "ocr"]


def test_a_circular_benchmark_counts_questions():
    sample = [{"circular_id": "a"}, {"circular_id": "a"}, {"circular_id": "b"}]
    rows = [prediction(i, float(i != 1), benchmark="mmbench", sample=s) for i, s in enumerate(sample)]
    mmbench = summarize(rows)["tasks"]["mmbench"]
    assert (mmbench["n"], mmbench["score"]) == (2, 0.5)
    assert mmbench["details"] == {"vanilla accuracy": pytest.approx(2 / 3)}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_baseline_is_compared_question_by_question(tmp_path):
    ours = [prediction(i, float(i % 4 != 0)) for i in range(100)]
    theirs = [prediction(i, float(i % 2 == 1)) for i in range(20, 120)]
    baseline = read_baseline(written(tmp_path / "predictions.jsonl", theirs))
    compared = summarize(ours, baseline)["tasks"]["ocr"]["baseline"]
    assert (compared["n"], compared["score"], compared["difference"]) == (80, 0.5, 0.25)
    assert compared["interval"] == pytest.approx([0.16, 0.35], abs=0.02)
    # the same two runs as if they had nothing to do with each other
    half = 1.96 * np.sqrt(0.25 / 80 + 0.75 * 0.25 / 80)
    assert np.diff(compared["interval"]) < 2 * half
    assert read_baseline(str(tmp_path)).scores == baseline.scores


def test_a_baseline_of_figures_alone_gives_a_column(tmp_path, capsys):
    rows = [prediction(0, 1.0), prediction(1, 0.0)]
    (tmp_path / "metrics.json").write_text(json.dumps(summarize([prediction(0, 0.0)])))
    baseline = read_baseline(str(tmp_path / "metrics.json"))
    assert baseline == Baseline({"ocr": 0.0}, None)
    show(summarize(rows, baseline))
    header, _, line, *_ = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert header[:3] == ["task", "rows", "metric"]
    assert "baseline" in header
    assert "change" not in header
    assert line[:5] == ["ocr", "2", "reward", "accuracy", "0.500"]


def test_a_baseline_of_other_questions_is_refused(tmp_path):
    rows = [prediction(0, 1.0)]
    other = read_baseline(written(tmp_path / "a.jsonl", [prediction(7, 1.0)]))
    with pytest.raises(UserError, match="shares no question of ocr"):
        summarize(rows, other)
    other = read_baseline(written(tmp_path / "b.jsonl", [prediction(0, 1.0, task="math")]))
    with pytest.raises(UserError, match="the baseline has math; this run has ocr"):
        summarize(rows, other)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"give the predictions.jsonl or metrics.json"):
        read_baseline(str(tmp_path / "metrics.json"))
    with pytest.raises(UserError, match="No such file"):
        read_baseline(str(tmp_path / "none.jsonl"))


def test_a_file_that_is_no_predictions_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"a.jsonl, line 2: is no prediction"):
        read_predictions((tmp_path / "a.jsonl").parent / written(tmp_path / "a.jsonl", [prediction(0, 1.0), {"x": 1}]))
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions(tmp_path / "b.jsonl")


def test_the_table_shows_details_and_intervals(capsys):
    rows = [
        prediction(i, float(i % 2), benchmark="mmbench", sample={"circular_id": str(i)}, error=None) for i in range(8)
    ]
    show(summarize(rows + [prediction(9, 1.0, repeat=k) for k in range(2)]))
    out = capsys.readouterr().out
    assert "circular accuracy (stand-in)" in out
    assert "  vanilla accuracy" in out
    assert "pass@2" in out
    assert "1.000..1.000" in out


def read_twice(index, strict, suite, **columns):
    """A prediction of AI2D by its two readings; None where one reads nothing."""
    row = prediction(index, float(strict or 0), benchmark="ai2d", value=strict, error=None if strict else "unparsed")
    errors = {"suite_error": None if suite is not None else "unparsed"}
    return row | {"suite_value": suite, "suite_score": float(suite or 0)} | errors | columns


def test_both_readings_are_given_with_what_only_one_reads(capsys):
    rows = [read_twice(0, 1, 1), read_twice(1, None, 1), read_twice(2, None, 0), read_twice(3, 1, None)]
    metrics = summarize([*rows, prediction(4, 1.0)])
    figures = metrics["tasks"]["ai2d"]
    assert (figures["score"], figures["strict"], figures["suite"]) == (0.5, 0.5, 0.5)
    assert (figures["only_strict"], figures["only_suite"], figures["unparsed"]) == (1, 2, 2)
    assert (figures["rule"], figures["judge_failures"], metrics["reading"]) == ("strict", 0, "strict")
    assert "matching_util.py" in figures["suite_source"]
    assert "suite" not in metrics["tasks"]["ocr"]
    assert (metrics["strict"], metrics["suite"], metrics["only_suite"]) == (0.5, 0.5, 2)
    unread = read_twice(0, 1, None, benchmark="charxiv") | {"suite_score": None, "suite_error": "no_judge"}
    assert "suite" not in summarize([*rows, unread])
    show(metrics)
    header, _, line, *_ = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert " ".join(header).startswith("task rows metric score 95 % strict suite only strict only suite format")
    assert line[:9] == ["ai2d", "4", "accuracy", "0.500", "0.000..1.000", "0.500", "0.500", "1", "2"]


def test_the_reading_makes_score_details_and_comparison(tmp_path):
    ours = [read_twice(i, None, float(i < 3)) for i in range(4)]
    theirs = [read_twice(i, None, float(i < 1)) for i in range(4)]
    file = written(tmp_path / "predictions.jsonl", theirs)
    figures = summarize(ours, read_baseline(file, "suite"), "suite")["tasks"]["ai2d"]
    assert (figures["score"], figures["strict"], figures["unparsed"], figures["rule"]) == (0.75, 0.0, 0, "suite")
    assert (figures["baseline"]["score"], figures["baseline"]["difference"]) == (0.25, 0.5)
    strict = summarize(ours, read_baseline(file))["tasks"]["ai2d"]
    assert (strict["score"], strict["baseline"]["difference"]) == (0.0, 0.0)
    (tmp_path / "metrics.json").write_text(json.dumps(summarize(theirs)))
    assert read_baseline(str(tmp_path / "metrics.json"), "suite").scores == {"ai2d": 0.25}
    assert read_baseline(str(tmp_path / "metrics.json")).scores == {"ai2d": 0.0}


def test_a_baseline_that_no_suite_has_read_is_refused(tmp_path):
    file = written(tmp_path / "predictions.jsonl", [prediction(0, 1.0, benchmark="ai2d")])
    with pytest.raises(UserError, match="has no answers that a suite read"):
        read_baseline(file, "suite")
