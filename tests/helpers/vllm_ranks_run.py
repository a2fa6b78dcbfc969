"""Two rollouts with vLLM, under one strategy after the other; writes losses and collectives for tests.

Runs once in each process: python vllm_ranks_run.py POLICY OUT DEVICES STRATEGY ...
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.rollout
from helpers.build import data, module, trainer, varied_score
from helpers.sharded_run import Watch, build_strategy, count_collectives
from lit_g2rpo.objectives import G2RPO

METRICS = ("train/loss", "train/grad_norm", "train/tokens", "rollout/reward", "rollout/entropy", "perf/push_mib")


class Record(pl.Callback):
    """Record metrics after each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0:
            metrics = trainer.callback_metrics
            self.steps.append({name: float(metrics[name]) for name in METRICS if name in metrics})


def run(folder: str, out: Path, devices: int, name: str) -> None:
    """Train two rollouts.

    Args:
        name: a strategy; ``-server`` after it samples on the server at ``VLLM_URL``, ``-shared`` on one engine that all
            processes share, instead of an engine in each.
    """
    strategy, _, place = name.partition("-")
    engine = "vllm"
    options: dict[str, Any] = {"kv_gib": 0.05}
    if place == "shared":
        options["tensor_parallel"] = devices
    elif place == "server":
        engine, options = "vllm_server", {"urls": [os.environ["VLLM_URL"]], "patience": 900}
    objective = G2RPO(filtering="off", entropy_coefficient=0.02)
    made = module(folder, objective, rollout={"engine": engine, "engine_options": options})
    # smooth near a gradient of 0, where rounding would decide the direction of a step
    made.optimizer = partial(torch.optim.AdamW, lr=1e-3, eps=1e-2)
    record, watch = Record(), Watch()
    lit_g2rpo.training.rollout.generation_context = watch
    by = trainer(
        out,
        4,
        callbacks=[record],
        devices=devices,
        strategy=build_strategy(strategy),
        limit_val_batches=1,
    )
    by.fit(made, data())
    result = {"steps": record.steps, "validation": made.validation_history, "gathered": watch.counts}
    (out / f"{name}_rank{by.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    count_collectives()
    lit_g2rpo.rewards.running.scorer.score = varied_score
    for strategy in sys.argv[4:]:
        run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), strategy)
