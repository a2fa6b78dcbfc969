"""Scored completions of validation, test and prediction."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_g2rpo.evaluation.benchmarks import benchmark_named
from lit_g2rpo.evaluation.readings import by_suite, tried
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.answers.parse import envelope, last_boxed
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.run import RunHandles

NOT_KEPT = ("images", "videos", "demonstration")
"""Columns of a data row that its prediction omits."""


def row(
    index: int,
    repeat: int,
    prompt: Prompt,
    completion: Completion,
    reward: RewardResult,
    config: RewardConfig = DEFAULT,
) -> dict[str, Any]:
    """Report one completion.

    Args:
        index: index of the row in the dataset.
        repeat: which of the row's completions, from 0.
        completion: what the policy wrote.
        reward: its score by the reward.
        config: settings of the reward.

    Returns:
        Everything reported about it, as plain values, and everything needed to score it again.
    """
    texts = [item["text"] for m in prompt.messages for item in m["content"] if item["type"] == "text"]
    text = "\n".join(texts)
    return {
        "index": index,
        "repeat": repeat,
        "id": prompt.id,
        "task": prompt.task,
        "problem_type": prompt.problem_type,
        "benchmark": prompt.sample.get("benchmark"),
        "prompt": text,
        "prompt_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "completion": completion.text,
        "gold": prompt.sample.get("answer"),
        "length": len(completion.token_ids),
        "truncated": completion.truncated,
        **verdict(completion.text, prompt.sample, reward, config),
        "sample": {key: value for key, value in prompt.sample.items() if key not in NOT_KEPT and _is_plain(value)},
    }


def verdict(
    text: str, sample: Mapping[str, Any], reward: RewardResult, config: RewardConfig = DEFAULT
) -> dict[str, Any]:
    """Score a completion by its benchmark's rule, or by the reward if its row has no benchmark.

    Args:
        sample: the data row.
        reward: its score by the reward.
        config: settings of the reward.

    Returns:
        ``answer``, ``value`` by the rule, ``score``, ``error``, ``accuracy``, ``format`` and ``seconds`` of the
        scoring, and for a benchmark the result of ``by_suite``; no accuracy or score for a row without a gold answer.

    Raises:
        UserError: if the row names a benchmark that does not exist.
    """
    answer, answered = extracted(text, config), sample.get("answer") is not None
    value: float | None = None
    score, error = (reward.accuracy, reward.error) if answered else (None, None)
    suite = {}
    if answered and sample.get("benchmark") is not None:
        benchmark = benchmark_named(sample["benchmark"])
        value, error = tried(benchmark.value, answer, sample)
        score = benchmark.score(value)
        suite = by_suite(benchmark, text, sample, config)
    return {
        "answer": answer,
        "value": value,
        "score": score,
        "error": error,
        **suite,
        "accuracy": reward.accuracy if answered else None,
        "format": reward.format,
        "seconds": reward.seconds,
    }


def extracted(text: str, config: RewardConfig = DEFAULT) -> str | None:
    """Read the answer that is graded.

    Args:
        config: settings of the reward.

    Returns:
        The answer, as the reward reads it; None if there is none.
    """
    parts = envelope(text, config.thinking_tag, config.answer_tag)
    if parts.answer is None and parts.answer_blocks == 0 and config.fallback == "whole_response":
        return last_boxed(parts.tail) or parts.tail
    return parts.answer


def settings(run: RunHandles, verb: str) -> dict[str, Any]:
    """Return the settings of predictions, so that an interrupted run only continues with the same ones.

    Args:
        verb: ``test`` or ``predict``.

    Returns:
        Plain values.
    """
    checkpoint = run.trainer.ckpt_path
    stat = Path(checkpoint).stat() if checkpoint else None
    # callbacks call this before the module has its tasks from the data
    tasks: dict[str, Task] = getattr(getattr(run.trainer, "datamodule", None), "tasks", run.tasks)
    return {
        "verb": verb,
        "policy": run.policy_path,
        "checkpoint": stat and [str(checkpoint), stat.st_size, stat.st_mtime_ns],
        # the baseline of a run and the reading compared do not change its predictions
        "evaluation": {k: value for k, value in asdict(run.evaluation).items() if k not in ("baseline", "reading")},
        "seed": run.rollout.seed,
        "max_completion_tokens": run.max_tokens,
        "reward": asdict(run.reward),
        "judge": run.judge and {"url": run.judge.url, "model": run.judge.model},
        "reward_functions": {name: task.reward for name, task in tasks.items() if task.reward},
    }


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return not (isinstance(value, float) and not math.isfinite(value))
