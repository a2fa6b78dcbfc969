"""Custom rewards, one in each accepted form.

python -m lit_g2rpo reward test rows.jsonl --reward examples/custom_reward.py:short_and_right
"""

import asyncio
from typing import Any


def short_and_right(completion: str, sample: dict[str, Any]) -> dict[str, float]:
    """Score one completion: the form of this project."""
    answer = completion.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    accuracy = float(answer == sample["answer"].removeprefix("<answer>").removesuffix("</answer>").strip())
    brevity = max(0.0, 1.0 - len(completion) / 4000)
    return {"total": 0.9 * accuracy + 0.1 * brevity, "accuracy": accuracy, "brevity": brevity}


async def looked_up(completion: str, sample: dict[str, Any], task: str) -> float:
    """Score one completion with something slow, such as a service; many calls wait concurrently."""
    await asyncio.sleep(0.01)
    return float(task in completion)


def contains_solution(completions: list[str], solution: list[str], **columns: Any) -> list[float | None]:
    """Score a batch: the form of TRL and ms-swift, columns of the rows by name; None means it does not apply."""
    return [None if not s else float(s in c) for c, s in zip(completions, solution, strict=True)]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, float]:
    """Score one completion: the form of verl."""
    return {"score": float(solution_str.strip().endswith(ground_truth)), "length": float(len(solution_str))}


def overall(reward_inputs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Score a batch: the form of EasyR1, whose module may set REWARD_TYPE to "batch" or "sequential"."""
    return [{"overall": float(one["ground_truth"] in one["response"]), "format": 1.0} for one in reward_inputs]
