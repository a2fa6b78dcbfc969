"""Runs that sample one rollout ahead, with what they did: python lag_run.py POLICY FOLDER DEVICES CHECKPOINT FAIL.

Each rank writes ``<rank>.pt``. Rank 1 cannot sample the rollout of index FAIL; -1 is none, as is ``-`` for CHECKPOINT.
"""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import lit_g2rpo.rewards.running.scorer
from helpers.build import data, module, trainer, varied_score
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO

STEPS = 8
"""Two a rollout."""


class SaveAt(pl.Callback):
    """Save a checkpoint when so many micro-batches are done."""

    def __init__(self, folder: Path, after: tuple[int, ...]) -> None:
        self.folder, self.after, self.done = folder, after, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        if self.done in self.after:
            trainer.save_checkpoint(self.folder / f"{self.done}.ckpt")


class Notes(pl.Callback):
    """Record completions, versions and losses by optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Any]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        completions = run.experience.completions
        names = ("train/loss", "train/grad_norm", "rollout/staleness_mean", "rollout/engine_gap_max")
        metrics = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
        self.steps[trainer.global_step] = metrics | {
            "tokens": [c.token_ids.tolist() for c in completions],
            "versions": [c.version for c in completions],
        }


def start(
    policy: str, folder: Path, devices: int = 1, checkpoint: Path | None = None, fail: int = -1
) -> tuple[G2RPOModule, Notes]:
    """Train four rollouts of 12 groups; see the module."""
    engine = {"engine": "helpers.separate_engine.SeparateEngine", "lag": 1}
    run, notes = module(policy, G2RPO(filtering="off", entropy_coefficient=0.02), rollout=engine), Notes()
    keeper = RolloutCheckpoint(every_rollouts=50, monitor=None, dirpath=str(folder / "c"))
    saves = SaveAt(folder, (6, 8))
    ranks: dict[str, Any] = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    fit = trainer(folder, STEPS, callbacks=[notes, keeper, saves], enable_checkpointing=True, **ranks)
    if fit.global_rank == 1 and fail >= 0:
        run.engine.fail_at = fail  # type: ignore[attr-defined]
    try:
        fit.fit(run, data(), ckpt_path=checkpoint, weights_only=False)
    except Exception as error:
        torch.save(
            {"error": f"{type(error).__name__}: {error}", "step": fit.global_step}, folder / f"{fit.global_rank}.pt"
        )
        raise
    return run, notes


def main(policy: str, folder: str, devices: str, checkpoint: str, fail: str) -> None:
    resumed = None if checkpoint == "-" else Path(checkpoint)
    run, notes = start(policy, Path(folder), int(devices), resumed, int(fail))
    torch.save({"steps": notes.steps, "weights": run.policy.state_dict()}, Path(folder) / f"{run.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_g2rpo.rewards.running.scorer.score = varied_score
    main(*sys.argv[1:])
