"""Runs that die inside a rollout and resume: python partial_run.py POLICY FOLDER DEVICES RESUME GROUPS.

GROUPS is the number of groups of the third rollout that a rank has done when all ranks are killed; 0 for never. A run
that is not killed writes values for a test to compare.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.group_records
from helpers.build import data, module, trainer, varied_score
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.experience import Completion
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

STEPS = 8
"""Two an rollout, so four rollouts of 12 groups, with a checkpoint after two."""


class Killed(BaseException):
    """Stands for the death of a process: nothing is saved on exit."""


class Kill(NativeEngine):
    """Die when a number of groups of a rollout, or of a refill, are done: at (rollout, wave, groups)."""

    at: tuple[int, int, int] | None = None
    real = False

    def generate(
        self, prompts: Any, group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        done = 0

        def told(index: int, completions: list[Completion]) -> None:
            nonlocal done
            assert finished is not None
            finished(index, completions)
            done += 1
            if (sampling.rollout, sampling.wave, done) == self.at:
                if self.real:
                    # all ranks at once
                    os.killpg(0, signal.SIGKILL)
                raise Killed

        return super().generate(prompts, group_size, sampling, told)


class Trace(pl.Callback):
    """Record every metric except durations, and the cost of each rollout, by optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.row_steps: dict[int, int] = {}
        self.tokens: dict[int, list[list[int]]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, _: int) -> None:
        # an optimizer step has two micro-batches
        if not batch[1] % 2:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("perf/")}
        self.steps[trainer.global_step] = {k: v for k, v in metrics.items() if "/" in k}
        self.tokens[trainer.global_step] = [c.token_ids.tolist() for c in pl_module.experience.completions]
        self.row_steps[trainer.global_step] = pl_module.policy.backbone.counters.row_steps


def start(
    policy: str,
    folder: Path,
    at: tuple[int, int, int] | None = None,
    resume: bool = False,
    filtering: str = "off",
    partial: bool = True,
    steps: int = STEPS,
    callbacks: tuple[pl.Callback, ...] = (),
    tokens: int = 8,
    devices: int = 1,
    **rollout: Any,
) -> tuple[G2RPOModule, Trace]:
    """Train four rollouts of 12 groups, decoded four at a time; see the module.

    Args:
        at: place to die.
        resume: resume from the newest checkpoint.
        partial: keep finished groups.
        tokens: longest completion.
    """
    objective = G2RPO(filtering=filtering, entropy_coefficient=0.02, length_weight=0.1, kl_coefficient=0.01)  # type: ignore[arg-type]
    run = module(policy, objective, rollout={"engine": "helpers.partial_run.Kill", "max_rows": 16} | rollout)
    run.engine.at = at  # type: ignore[attr-defined]
    trace = Trace()
    keeper = RolloutCheckpoint(every_rollouts=2, monitor=None, dirpath=str(folder / "c"), partial_rollouts=partial)
    ranks: dict[str, Any] = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    fit = trainer(folder, steps, callbacks=[trace, keeper, *callbacks], enable_checkpointing=True, **ranks)
    fit.fit(run, data(max_completion_tokens=tokens), ckpt_path=str(folder / "c" / "last.ckpt") if resume else None)
    return run, trace


def records(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "c" / "partial").glob("*"))


def main(policy: str, folder: str, devices: str, resume: str, groups: str) -> None:
    at = (2, 0, int(groups)) if int(groups) else None
    run, trace = start(policy, Path(folder), at, bool(int(resume)), devices=int(devices))
    found = {"weights": run.policy.state_dict(), "optimizer": run.trainer.optimizers[0].state_dict()}
    found |= {"steps": trace.steps, "tokens": trace.tokens}
    torch.save(found, Path(folder) / f"{run.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_g2rpo.rewards.running.scorer.score = varied_score
    Kill.real = True
    lit_g2rpo.training.group_records.DELAY = 0.0
    # the engine is imported by its path, as another class
    sys.modules["helpers.partial_run"] = sys.modules["__main__"]
    main(*sys.argv[1:])
