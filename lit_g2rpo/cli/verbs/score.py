"""``score``: compute the figures of existing predictions by the current rules, without the model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_g2rpo.cli.arguments import VerbParser, new_file
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import write_text

if TYPE_CHECKING:
    from lit_g2rpo.rewards.running.judge import JudgeConfig

DESCRIPTION = """\
Score a predictions.jsonl again, without the model, and print the table that test prints. The tags and rewards are those
of the metrics.json next to it, if there is one."""


def main(arguments: Sequence[str]) -> None:
    """Score predictions.

    Raises:
        UserError: if a file does not have the expected content.
    """
    parser = VerbParser("python -m lit_g2rpo score", description=DESCRIPTION)
    parser.add_argument("predictions", type=Path, help="predictions.jsonl of a test")
    parser.add_argument("--baseline", help="predictions.jsonl or metrics.json of another run, or its folder")
    parser.add_argument("--benchmark", help="rule to score all rows by, instead of the one that each row names")
    parser.add_argument("--reading", choices=("strict", "suite"), default="strict", help="reading that is the score")
    parser.add_argument(
        "--judge_url", help="endpoint of a judge, for benchmarks that ask one: http://localhost:8000/v1"
    )
    parser.add_argument("--judge_model", help="name of the model there")
    parser.add_argument("--judge_api_key_env", default="", help="environment variable that holds its key")
    parser.add_argument("--json", type=new_file, help="file to write the figures to")
    parser.add_argument("--output", type=new_file, help="file to write the newly scored predictions to")
    options = parser.parse_args(arguments)
    if bool(options.judge_url) != bool(options.judge_model):
        parser.error("a judge needs both --judge_url and --judge_model")

    # imported here to keep --help fast
    from lit_g2rpo.evaluation.predictions import read_predictions
    from lit_g2rpo.evaluation.report import read_baseline, summarize
    from lit_g2rpo.evaluation.table import show
    from lit_g2rpo.rewards.running.judge import JudgeConfig

    rows = read_predictions(options.predictions)
    baseline = read_baseline(options.baseline, options.reading) if options.baseline else None
    settings = settings_beside(options.predictions)
    rescore(rows, settings, options.benchmark)
    if options.judge_url:
        judge(rows, settings, JudgeConfig(options.judge_url, options.judge_model, options.judge_api_key_env))
    metrics = summarize(rows, baseline, options.reading)
    show(metrics)
    if options.json:
        write_text(options.json, json.dumps(metrics | {"settings": settings}, indent=2) + "\n")
    if options.output:
        write_text(options.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def judge(rows: list[dict[str, Any]], settings: dict[str, Any], config: "JudgeConfig") -> None:
    """Let a judge grade the answers for which the benchmark's protocol requires one.

    Args:
        rows: scored predictions, modified in place.
        settings: settings that produced them, to which the judge is added.
        config: settings of the judge.
    """
    from lit_g2rpo.evaluation.judging import Judging
    from lit_g2rpo.rewards.config import RewardConfig

    Judging(config, RewardConfig(**settings.get("reward", {}))).judge(rows)
    settings["judge"] = {"url": config.url, "model": config.model}


def settings_beside(predictions: Path) -> dict[str, Any]:
    """Read the settings that produced predictions.

    Returns:
        The settings in ``metrics.json`` in the same folder; empty if there is none.

    Raises:
        UserError: if that file is broken.
    """
    path = predictions.with_name("metrics.json")
    if not path.exists():
        return {}
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: has no settings; give predictions with an intact metrics.json, or none") from None
    return settings


def rescore(rows: list[dict[str, Any]], settings: dict[str, Any], benchmark: str | None = None) -> None:
    """Score rows by the current rules.

    Args:
        rows: rows of predictions, modified in place.
        settings: settings that produced them, of which ``reward`` and ``reward_functions`` are used.
        benchmark: benchmark of all rows; None for the one that each row names.

    Raises:
        UserError: if a row does not fit its benchmark, or a setting is unknown.
    """
    from lit_g2rpo.evaluation.benchmarks import benchmark_error
    from lit_g2rpo.evaluation.rows import verdict
    from lit_g2rpo.hardware.steps import Step
    from lit_g2rpo.rewards.config import RewardConfig
    from lit_g2rpo.rewards.running.adapters import Batch
    from lit_g2rpo.rewards.running.scorer import Scorer

    for number, row in enumerate(rows, 1):
        if benchmark:
            row["benchmark"] = row["sample"]["benchmark"] = benchmark
        if error := benchmark_error(row["sample"]):
            raise UserError(f"prediction {number} ({row['id']}): {error}")
    config = RewardConfig(**settings.get("reward", {}))
    scorer = Scorer(config, settings.get("reward_functions", {}))
    batch = Batch(
        [row["completion"] for row in rows],
        # a prediction lacks its question, which no built-in reward reads
        [{"problem": row["prompt"], "images": []} | row["sample"] for row in rows],
        [row["task"] for row in rows],
        [row["prompt"] for row in rows],
    )
    try:
        with Step(f"scoring {len(rows):,} completions"):
            rewards = scorer.score(batch)
    finally:
        scorer.close()
    for row, reward in zip(rows, rewards, strict=True):
        row |= verdict(row["completion"], row["sample"], reward, config)
