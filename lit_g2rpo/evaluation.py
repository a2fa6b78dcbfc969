"""Scored completions of validation, test and prediction."""

from typing import Any

import torch

from lit_g2rpo.distributed import sum_over_ranks
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.parse import envelope

NAMES = ("accuracy", "format", "length", "truncated")


def row(index: int, prompt: Prompt, completion: Completion) -> dict[str, Any]:
    """Score one completion.

    Args:
        index: place of the row in the dataset.
        prompt: the prompt.
        completion: what the policy wrote.

    Returns:
        Everything that is reported of it, as plain values; no accuracy for a row without an answer.
    """
    reward = score(completion.text, prompt.sample)
    texts = [item["text"] for m in prompt.messages for item in m["content"] if item["type"] == "text"]
    return {
        "index": index,
        "id": prompt.id,
        "task": prompt.task,
        "problem_type": prompt.problem_type,
        "prompt": "\n".join(texts),
        "completion": completion.text,
        "answer": envelope(completion.text).answer,
        "gold": prompt.sample.get("answer"),
        "accuracy": None if prompt.sample.get("answer") is None else reward.accuracy,
        "format": reward.format,
        "length": len(completion.token_ids),
        "truncated": completion.truncated,
    }


class Tally:
    """Sums and counts per task.

    Args:
        tasks: names of all tasks of the run.
    """

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.sums = torch.zeros(len(tasks), len(NAMES) + 1, dtype=torch.float64)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count rows.

        Args:
            rows: from ``row``.
        """
        for entry in rows:
            values = [float(entry[name]) for name in NAMES]
            self.sums[self.tasks.index(entry["task"])] += torch.tensor([*values, 1.0], dtype=torch.float64)

    def reduce(self, module: Any, prefix: str) -> tuple[dict[str, float], dict[str, int]]:
        """Add up over ranks.

        Args:
            module: the LightningModule, whose strategy knows the ranks.
            prefix: ``val`` or ``test``.

        Returns:
            ``<prefix>/<name>/<task>`` for the tasks present and ``<prefix>/<name>`` as the mean over them, and the
            number of rows per task.
        """
        sums = sum_over_ranks(module, self.sums)
        present = [(task, sums[k]) for k, task in enumerate(self.tasks) if sums[k, -1]]
        metrics: dict[str, float] = {}
        for i, name in enumerate(NAMES):
            means = {task: float(values[i] / values[-1]) for task, values in present}
            metrics |= {f"{prefix}/{name}/{task}": mean for task, mean in means.items()}
            metrics[f"{prefix}/{name}"] = sum(means.values()) / max(len(means), 1)
        return metrics, {task: int(values[-1]) for task, values in present}
