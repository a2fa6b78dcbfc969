"""Two ranks train without and with the pre-flight check, then with a reward that fails on one rank."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from helpers.build import data, module, trainer
from lit_g2rpo.callbacks import Preflight, RolloutCheckpoint
from lit_g2rpo.errors import UserError

POLICY = "package:lit_g2rpo.mini/weights"


def fit(out: Path, callbacks: list[Any], source: Any) -> tuple[Any, Any]:
    run = module(POLICY)
    fitting = trainer(
        out, steps=2, callbacks=[RolloutCheckpoint(monitor=None), *callbacks], devices=2, strategy="ddp",
        enable_checkpointing=True,
    )  # fmt: skip
    fitting.fit(run, source)
    return run, fitting


def fails_on_rank_1(completion: str, sample: dict[str, Any]) -> float:
    if os.environ["LOCAL_RANK"] == "1":
        raise ValueError("no licence on this machine")
    return float(sample["answer"] in completion)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    without, _ = fit(out / "without", [], data())
    checked, fitting = fit(out / "with", [Preflight()], data())
    for (name, a), (_, b) in zip(without.policy.named_parameters(), checked.policy.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    path = f"{Path(__file__).resolve()}:fails_on_rank_1"
    try:
        fit(out / "fails", [Preflight()], data(tasks={"ocr": {"reward": path, "in_process": True}}))
    except UserError as error:
        (out / f"rank{fitting.global_rank}.txt").write_text(str(error))
