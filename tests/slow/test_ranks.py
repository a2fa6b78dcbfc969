"""A rank that fails ends all of them, from the command line, and is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("where", "rank"), [("training_step", 1), ("reward", 0), ("data", 1)])
def test_no_rank_waits_for_one_that_failed(tmp_path: Path, where: str, rank: int) -> None:
    command = [
        sys.executable, "-m", "lit_g2rpo", "fit", "--config", str(ROOT / "configs" / "g2rpo.yaml"),
        "--trainer", str(ROOT / "configs" / "strategy" / "ddp.yaml"),
        "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.num_sanity_val_steps", "0",
        "--model.rollout.prompts", "4", "--data.max_completion_tokens", "8",
        "--trainer.callbacks", "failing.Fail",
        "--trainer.callbacks.init_args.rank", str(rank), "--trainer.callbacks.init_args.where", where,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    # the pipes close when the last rank is gone
    _, errors = process.communicate(timeout=200)
    assert process.returncode not in (0, 2)
    assert f"ValueError: a fault in {where}" in errors
    assert f"rank {rank} of 2; all ranks end" in errors
    if rank:
        assert "Connection closed" not in errors
        assert errors.rstrip().endswith("error: rank 0 stops, because rank 1 has failed; see its error")
