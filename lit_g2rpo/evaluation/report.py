"""Summary of predictions: figures per benchmark or task, intervals, and the difference from a baseline."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmark import Benchmark
from lit_g2rpo.evaluation.benchmarks import known_benchmark
from lit_g2rpo.evaluation.bootstrap import interval, resampled_means
from lit_g2rpo.evaluation.figures import benchmark_figures
from lit_g2rpo.evaluation.predictions import NAME, read_predictions
from lit_g2rpo.evaluation.readings import JUDGE_FAILED, Reading, as_read

MEANS = ("accuracy", "format", "length", "truncated")
READINGS: tuple[Reading, ...] = ("strict", "suite")
Row = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class Baseline:
    """Another run on the same questions.

    Args:
        scores: its figure per group.
        questions: its score for each question per group; None if only its figures are known.
    """

    scores: dict[str, float]
    questions: dict[str, dict[str, float]] | None


def read_baseline(path: str, reading: Reading = "strict") -> Baseline:
    """Read a run to compare with.

    Args:
        path: its ``predictions.jsonl``, its ``metrics.json``, or the folder with both.
        reading: the reading of its answers to compare.

    Raises:
        UserError: if it is neither.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    if file.suffix == ".jsonl":
        groups = {name: _questions(name, rows, reading) for name, rows in group(read_predictions(file)).items()}
        means = {name: _means(questions) for name, questions in groups.items()}
        return _of_reading(
            Baseline({name: _mean(known.values()) or 0.0 for name, known in means.items() if known}, means),
            path,
            reading,
        )
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))["tasks"]
        scores = {name: _score(figures, reading) for name, figures in tasks.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"baseline {path}: give the predictions.jsonl or metrics.json that test wrote") from None
    known = {name: score for name, score in scores.items() if score is not None}
    return _of_reading(Baseline(known, None), path, reading)


def _score(figures: Mapping[str, Any], reading: Reading) -> float | None:
    score: float | None = figures["score"]
    return score if figures["rule"] == "reward" else figures.get(reading, score if reading == "strict" else None)


def _of_reading(baseline: Baseline, path: str, reading: Reading) -> Baseline:
    if reading == "suite" and not baseline.scores:
        raise UserError(
            f"baseline {path}: has no answers that a suite read; score it again: score PREDICTIONS --output"
        )
    return baseline


def group(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by benchmark, or by task if they have none, sorted by name."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.get("benchmark") or row["task"]].append(row)
    return dict(sorted(groups.items()))


def summarize(rows: Iterable[Row], baseline: Baseline | None = None, reading: Reading = "strict") -> dict[str, Any]:
    """Average predictions per group, and average groups with equal weight.

    A question's score is the mean over its repeats; intervals are 95 % by resampling questions.

    Args:
        reading: the reading of a benchmark's answers used for its score, interval and details.

    Returns:
        Per group under ``tasks`` and over all: ``n`` questions, ``score``, ``interval``, ``unparsed`` answers and
        ``timeouts`` of the reward as counts, and the means of accuracy, format, length and truncation; with repeats
        ``pass@k``; with a baseline its figures; for a benchmark the result of ``_readings``. None if no row has it.

    Raises:
        UserError: if the baseline shares no question with these rows.
    """
    groups = group(rows)
    tasks: dict[str, dict[str, Any]] = {}
    draws = []
    for seed, (name, members) in enumerate(groups.items()):
        questions = _questions(name, members, reading)
        tasks[name] = _figures(name, members, questions, reading)
        if questions:
            draws.append(resampled_means([_mean(scores) or 0.0 for scores in questions.values()], seed))
            tasks[name]["interval"] = interval(draws[-1])
        if baseline and name in baseline.scores:
            tasks[name]["baseline"] = _compared(questions, baseline, name, seed)
    if baseline and not any("baseline" in figures for figures in tasks.values()):
        known = ", ".join(baseline.scores)
        raise UserError(f"the baseline has {known}; this run has {', '.join(tasks)}: none in common")
    whole = {name: _mean(figures[name] for figures in tasks.values()) for name in ("score", *MEANS)}
    counts = {name: sum(figures[name] for figures in tasks.values()) for name in ("n", "unparsed", "timeouts")}
    benchmarks = [figures for figures in tasks.values() if "strict" in figures]
    if benchmarks and all(figures["suite"] is not None for figures in benchmarks):
        # so that both means cover the same benchmarks
        whole |= {by: _mean(figures[by] for figures in benchmarks) for by in READINGS}
        counts |= {name: sum(figures[name] for figures in benchmarks) for name in ("only_strict", "only_suite")}
    bounds = {"interval": interval(np.mean(draws, axis=0))} if draws else {}
    return {"reading": reading, **counts, **whole, **bounds, "tasks": tasks}


def _figures(name: str, rows: list[Row], questions: Mapping[str, list[float]], reading: Reading) -> dict[str, Any]:
    figures: dict[str, Any] = {"n": len(questions) or len({row["index"] for row in rows})}
    benchmark = known_benchmark(name)
    figures["metric"] = benchmark.metric if benchmark else "reward accuracy"
    figures["rule"] = _rule(benchmark, reading)
    figures["score"] = _mean(_mean(scores) for scores in questions.values())
    repeats = max(map(len, questions.values()), default=1)
    if repeats > 1:
        figures[f"pass@{repeats}"] = _mean(max(scores) for scores in questions.values())
    errors = [as_read(row, reading, "error") for row in rows]
    figures["unparsed"] = sum(error not in (None, "timeout", "no_judge", "no_suite") for error in errors)
    figures["timeouts"] = errors.count("timeout")
    figures |= {mean: _mean(row[mean] for row in rows) for mean in MEANS}
    if benchmark:
        figures |= _readings(name, benchmark, rows)
    if benchmark and questions:
        values = [as_read(row, reading, "value") for row in rows]
        details = benchmark_figures(benchmark, values, [row["sample"] for row in rows])
        del details[benchmark.metric]
        figures |= {"details": details} if details else {}
    return figures


def _rule(benchmark: Benchmark | None, reading: Reading) -> str:
    if benchmark is None:
        return "reward"
    return "stand-in" if reading == "strict" and benchmark.stands_in else reading


def _readings(name: str, benchmark: Benchmark, rows: list[Row]) -> dict[str, Any]:
    """Return the score by each reading, how many answers only one of them can read, and the suite.

    Returns:
        ``strict`` and ``suite``, the latter None without a suite or a required judge; with a suite's figure also
        ``only_strict``, ``only_suite`` and ``judge_failures``; ``suite_source`` and ``needs_judge``.
    """
    means: dict[str, float | None] = {by: _mean(_means(_questions(name, rows, by)).values()) for by in READINGS}
    figures: dict[str, Any] = {**means}
    if benchmark.suite is None:
        return figures
    figures |= {"suite_source": benchmark.suite.source, "needs_judge": benchmark.suite.judged}
    if means["suite"] is None:
        return figures
    read = [tuple(as_read(row, by, "value") is not None for by in READINGS) for row in rows]
    failures = [error for row in rows if (error := row.get("suite_error") or "").startswith(JUDGE_FAILED)]
    return figures | {
        "only_strict": read.count((True, False)),
        "only_suite": read.count((False, True)),
        "judge_failures": len(failures),
    }


def _compared(questions: Mapping[str, list[float]], baseline: Baseline, name: str, seed: int) -> dict[str, Any]:
    if baseline.questions is None:
        return {"score": baseline.scores[name]}
    ours, theirs = _means(questions), baseline.questions[name]
    common = [key for key in ours if key in theirs]
    if not common:
        raise UserError(f"the baseline shares no question of {name} with this run; evaluate both on the same data")
    differences = [ours[key] - theirs[key] for key in common]
    return {
        "score": _mean(theirs[key] for key in common),
        "n": len(common),
        "difference": _mean(differences),
        "interval": interval(resampled_means(differences, seed)),
    }


def _questions(name: str, rows: Iterable[Row], reading: Reading) -> dict[str, list[float]]:
    """Collect the scores of each question, one per repeat; a circular question gets that of its worst rotation."""
    benchmark = known_benchmark(name)
    circular = benchmark.circular if benchmark else None
    worst: dict[tuple[str, int], float] = {}
    for row in rows:
        score = as_read(row, reading, "score")
        if score is not None:
            question = str(row["sample"][circular]) if circular else f"{row['index']}:{row['id']}"
            place = question, row["repeat"]
            worst[place] = min(score, worst.get(place, score))
    questions: defaultdict[str, list[float]] = defaultdict(list)
    for (question, _), score in worst.items():
        questions[question].append(score)
    return dict(questions)


def _means(questions: Mapping[str, list[float]]) -> dict[str, float]:
    return {key: sum(scores) / len(scores) for key, scores in questions.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    """Average the values that are not None; None if there are none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
