"""A run does not change when its engine does."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer
from helpers.paths import WEIGHTS

ROLLOUTS = 20
EXCEPT = ("perf/", "rollout/engine_gap", "train/logprob_gap")
"""Metrics of the machine, and those that are themselves differences between the engine's numbers and the trainer's."""


class Recorder(pl.Callback):
    """Keeps each rollout's completions and rewards, and the metrics of each step."""

    def __init__(self) -> None:
        self.rollouts: list[dict[str, Any]] = []
        self.metrics: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        experience = pl_module.experience
        if batch[1] == 0:
            self.rollouts.append(
                {
                    "prompts": [prompt.id for prompt in experience.prompts],
                    "refills": experience.refills,
                    "tokens": [completion.token_ids.tolist() for completion in experience.completions],
                    "texts": [completion.text for completion in experience.completions],
                    "rewards": experience.total_rewards.tolist(),
                }
            )
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.validated += pl_module.validation_history[-1:]


def fit(engine: str, folder: Path, **rollout: Any) -> tuple[Recorder, dict[str, torch.Tensor]]:
    recorder = Recorder()
    sizes = {"rollout": {"engine": engine, "prompts": 6} | rollout, "update": {"microbatches": 2}}
    run = module(str(WEIGHTS), **sizes)
    run.objective.filtering = "refill"
    # that of the recipe: a larger one would magnify rounding
    run.optimizer = partial(torch.optim.AdamW, lr=6e-5)
    rows = data(max_completion_tokens=16, rollouts_per_epoch=ROLLOUTS)
    options: dict[str, Any] = {"limit_val_batches": 1, "check_val_every_n_epoch": None, "val_check_interval": ROLLOUTS}
    # vLLM starts in a validation, in inference mode
    options["num_sanity_val_steps"] = 1
    trainer(folder, ROLLOUTS, callbacks=[recorder], **options).fit(run, rows)
    return recorder, {name: weight.detach() for name, weight in run.policy.named_parameters()}


def test_a_run_of_20_rollouts_is_the_same_on_native_and_on_vllm(tmp_path: Path) -> None:
    ours, weights = fit("vllm", tmp_path / "vllm", engine_options={"kv_gib": 0.1})
    theirs, expected = fit("native", tmp_path / "native")
    assert len(theirs.rollouts) == ROLLOUTS
    assert len({text for rollout in theirs.rollouts for text in rollout["texts"]}) > 100
    assert any(rollout["refills"] for rollout in theirs.rollouts)
    assert ours.rollouts == theirs.rollouts
    assert len(ours.metrics) == len(theirs.metrics) == 2 * ROLLOUTS
    for index, (found, wanted) in enumerate(zip(ours.metrics, theirs.metrics, strict=True)):
        for name in wanted:
            if not name.startswith(EXCEPT):
                assert found[name] == pytest.approx(wanted[name], abs=1e-5, rel=1e-5, nan_ok=True), (index, name)
    assert ours.validated == theirs.validated != []
    assert "perf/push_seconds" in ours.metrics[-1]
    assert all(0 < step["rollout/engine_gap_max"] < 5e-5 for step in ours.metrics)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=0)
