"""Runs in which half of the groups are tied and refilled: python refill_run.py POLICY OUT on two ranks."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

import lit_g2rpo.rewards.running.scorer
from helpers.build import data, module, trainer
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.rewards import RewardResult

SIZES: dict[str, Any] = {"rollout": {"prompts": 12, "group_size": 2}, "update": {"microbatches": 4}}


def coin_score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
    """Right or wrong by the text's digest: half of all groups of two are tied."""
    right = float(hashlib.sha256(text.encode()).digest()[0] % 2)
    return RewardResult(
        total=0.9 * right, accuracy=right, format=0.0, structure=0.0, components={}, error=None, seconds=0.0
    )


class Notes(Callback):
    """Record the results of each rollout."""

    def __init__(self) -> None:
        self.rollouts: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 1:  # metrics exist after an optimizer step, which has two micro-batches
            experience = pl_module.experience
            self.rollouts.append(
                {
                    "given": [p.id for p in batch[0]],
                    "prompts": [p.id for p in experience.prompts],
                    "tasks": [p.task for p in experience.prompts],
                    "valid": experience.table.valid[:, 0].tolist(),
                    "refills": experience.refills,
                    "completions": [c.text for c in experience.completions],
                    "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("rollout/")},
                }
            )


def run(folder: str, out: Path, steps: int, waves: int = 3, **options: Any) -> tuple[Any, Notes]:
    notes = Notes()
    checkpoint = options.pop("ckpt_path", None)
    fit = trainer(out, steps, callbacks=[notes, *options.pop("callbacks", [])], **options)
    trained = module(folder, GRPO(filtering="refill", refill_waves=waves), **SIZES)
    fit.fit(trained, data(train_per_task=50), ckpt_path=checkpoint)
    return fit, notes


if __name__ == "__main__":
    lit_g2rpo.rewards.running.scorer.score = coin_score
    torch.set_num_threads(1)
    folder, out = sys.argv[1], Path(sys.argv[2])
    fit, notes = run(folder, out, 4, devices=2, strategy="ddp")
    (out / f"{fit.global_rank}.json").write_text(json.dumps(notes.rollouts))
