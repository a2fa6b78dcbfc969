"""Checkpoints that are folders: saved on two ranks, resumed, and with a rank that cannot write.

Runs once in each process: python folder_run.py POLICY OUT STRATEGY.
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import json
import sys
from pathlib import Path
from typing import Any

import torch

import lit_g2rpo.rewards.running.scorer
from helpers.build import data, module, trainer, varied_score
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.strategies import FSDP2Strategy, G2RPODeepSpeedStrategy


def build_strategy(name: str) -> Any:
    if name == "fsdp2":
        return FSDP2Strategy(process_group_backend="gloo", save_distributed_checkpoint=True)
    return G2RPODeepSpeedStrategy(stage=int(name[-1]))


def fit(policy: str, out: Path, name: str, steps: int, ckpt_path: Path | None = None, fail: bool = False) -> Any:
    torch.manual_seed(5)
    run = module(policy)
    keeper = RolloutCheckpoint(every_rollouts=1, monitor=None, keep_last=2)
    fitting = trainer(
        out, steps, callbacks=[keeper], devices=2, strategy=build_strategy(name), enable_checkpointing=True
    )
    if fail:
        write = torch.save

        def full(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            # the second checkpoint, on the last rank
            if fitting.global_rank == 1 and fitting.global_step == 4:
                raise OSError(28, "No space left on device")
            write(content, file, *args, **kwargs)

        torch.save = full
        # DeepSpeed's writer and torch's own look up the function here
    fitting.fit(run, data(), ckpt_path=ckpt_path)
    with generation_context(fitting.strategy, run.policy):
        found = {key: weight.detach().clone() for key, weight in run.policy.named_parameters()}
    return keeper, found


def main(policy: str, out: Path, name: str) -> None:
    keeper, straight = fit(policy, out / "straight", name, 6)
    folder = Path(keeper.dirpath)
    kept = sorted(path.name for path in folder.iterdir())
    _, resumed = fit(policy, out / "resumed", name, 6, ckpt_path=folder / "rollout=00002-step=000004.ckpt")
    keeper, failing = fit(policy, out / "failing", name, 6, fail=True)
    result = {
        "kept": kept,
        "resumed": max(float((straight[key] - resumed[key]).abs().max()) for key in straight),
        "failing": max(float((straight[key] - failing[key]).abs().max()) for key in straight),
        "kept_by_failing": sorted(path.name for path in Path(keeper.dirpath).iterdir()),
    }
    (out / f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_g2rpo.rewards.running.scorer.score = varied_score
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
