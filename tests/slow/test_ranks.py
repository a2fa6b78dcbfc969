"""A rank that fails ends all of them, from the command line, and is named."""

import sys

import pytest
from helpers.paths import CONFIGS
from helpers.processes import Commands


@pytest.mark.parametrize(("where", "rank"), [("training_step", 1), ("reward", 0), ("data", 1)])
def test_no_rank_waits_for_one_that_failed(commands: Commands, where: str, rank: int) -> None:
    command = [
        sys.executable, "-m", "lit_g2rpo", "fit", "--config", CONFIGS / "g2rpo.yaml",
        "--trainer", CONFIGS / "strategy" / "ddp.yaml",
        "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.num_sanity_val_steps", "0",
        "--model.rollout.prompts", "4", "--data.max_completion_tokens", "8",
        "--trainer.callbacks", "helpers.failing.Fail",
        "--trainer.callbacks.init_args.rank", rank, "--trainer.callbacks.init_args.where", where,
    ]  # fmt: skip
    # it returns when the last rank is gone and so the pipes are closed
    done = commands.run(*command)
    assert done.returncode not in (0, 2)
    assert f"ValueError: a fault in {where}" in done.stderr
    assert f"rank {rank} of 2; all ranks end" in done.stderr
    if rank:
        assert "Connection closed" not in done.stderr
        assert done.stderr.rstrip().endswith("error: rank 0 stops, because rank 1 has failed; see its error")
