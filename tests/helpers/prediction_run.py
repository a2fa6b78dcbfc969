"""A module whose rows are computed from their numbers, tested with a ``PredictionWriter``.

Runs once in each of two processes: python prediction_run.py FOLDER ROW, where rank 1 dies at a row.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L

from helpers.toy import ToyModule
from lit_g2rpo.callbacks import PredictionWriter
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import Task

SIZE = 6


def rows(indices, repeats=1):
    return [
        {
            "index": index,
            "repeat": repeat,
            "id": f"row-{index}",
            "task": "ab"[index % 2],
            "benchmark": None,
            "prompt": "?",
            "completion": "<answer>ü\u2028</answer>",
            "answer": "ü",
            "gold": "ü",
            "value": None,
            "score": float(index % 4 == 0),
            "error": None,
            "accuracy": float(index % 4 == 0),
            "format": 1.0,
            "length": 10 + index,
            "truncated": False,
            "sample": {},
        }
        for index in indices
        for repeat in range(repeats)
    ]


@dataclass
class Evaluation:
    temperature: float = 0.0
    repeats: int = 1
    baseline: str | None = None
    reading: str = "strict"


class Module(ToyModule):
    """A toy whose batches are lists of row numbers."""

    def __init__(self, evaluation=None, dies_at=None, **options):
        super().__init__(**options)
        self.evaluation = evaluation or Evaluation()
        self.rollout, self.reward, self.max_tokens = SimpleNamespace(seed=0), RewardConfig(), 8
        self.tasks = {"a": Task("a"), "b": Task("b")}
        self.dies_at = dies_at
        self.made = []

    def test_step(self, batch, batch_idx):
        if self.dies_at in batch:
            raise RuntimeError("no")
        self.made += batch
        return rows(batch, self.evaluation.repeats)

    predict_step = test_step


class Batches:
    """A loader of batches that are lists."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Data(PromptData):
    """Row numbers in batches of two, except those that are done."""

    def __init__(self, size=SIZE):
        super().__init__()
        self.size = size

    def setup(self, stage): ...

    def test_dataset(self):
        return SimpleNamespace(task_names=lambda: ["ab"[index % 2] for index in range(self.size)])

    predict_dataset = test_dataset

    def test_dataloader(self):
        trainer = self.trainer
        left = [index for index in range(self.size) if index not in self.done]
        mine = left[trainer.global_rank :: trainer.world_size]
        share = -(-len(left) // trainer.world_size)
        return Batches([mine[i : i + 2] for i in range(0, share, 2)])

    predict_dataloader = test_dataloader


def trainer(tmp_path, **options):
    return L.Trainer(
        accelerator="cpu",
        devices=options.pop("devices", 1),
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[PredictionWriter()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def main(folder, dies_at):
    rank = int(os.environ.get("LOCAL_RANK", 0))
    module = Module(dies_at=dies_at if rank else None)
    runner = trainer(folder, devices=2, strategy="ddp", use_distributed_sampler=False)
    runner.test(module, datamodule=Data(7), verbose=False)
    print(f"rank {rank} made {module.made}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
