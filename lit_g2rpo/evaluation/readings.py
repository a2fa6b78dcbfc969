"""The two readings of an answer: strict, from the answer block only, and the suite's, from free text."""

from collections.abc import Mapping
from typing import Any, Literal

from lit_g2rpo.evaluation.benchmark import Benchmark
from lit_g2rpo.evaluation.suite import Rule, suite_text
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.rules.math import TimedOut

Reading = Literal["strict", "suite"]
Row = Mapping[str, Any]
JUDGE_FAILED = "judge"
"""Prefix of the error code of an answer whose judge failed."""


def by_suite(
    benchmark: Benchmark, completion: str, sample: Mapping[str, Any], config: RewardConfig = DEFAULT
) -> dict[str, Any]:
    """Score a completion as the benchmark's suite reads it, without a judge.

    Args:
        sample: the data row.
        config: supplies the tags.

    Returns:
        ``suite_value``, ``suite_score`` and ``suite_error``; the score is None if there is no suite (``no_suite``), or
        if the figure requires a judge (``no_judge``).
    """
    suite = benchmark.suite
    if suite is None or suite.judged:
        return {"suite_value": None, "suite_score": None, "suite_error": "no_judge" if suite else "no_suite"}
    value, error = tried(suite.read, suite_text(completion, config), sample)
    return {"suite_value": value, "suite_score": benchmark.score(value), "suite_error": error}


def tried(rule: Rule, text: str | None, sample: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Apply a rule to a text that may be missing, and turn exceptions into error codes, so no answer ends a run.

    Args:
        sample: the data row.

    Returns:
        The value, or None and the reason.
    """
    if not text:
        return None, "no_answer"
    try:
        value = rule(text, sample)
    except TimedOut:
        return None, "timeout"
    except (ValueError, KeyError):
        return None, "bad_gold"
    except Exception as failure:  # a custom rule may raise anything
        return None, type(failure).__name__
    return value, "unparsed" if value is None else None


def as_read(row: Row, reading: Reading, name: Literal["value", "score", "error"]) -> Any:
    """Return a field of a scored row by one of its readings; a row without a benchmark has only the strict one.

    Args:
        name: ``value`` of the rule, ``score``, or ``error``; the result is None if the row lacks it.
    """
    if reading == "strict" or not row.get("benchmark"):
        return row[name]
    return row.get(f"suite_{name}")
