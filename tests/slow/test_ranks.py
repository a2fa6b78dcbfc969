"""A rank that fails ends all of them, from the command line, and is named."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import CONFIGS
from helpers.processes import Commands, alive, eventually


def failing(rank: int, where: str) -> list[object]:
    return [
        sys.executable, "-m", "lit_g2rpo", "fit", "--config", CONFIGS / "g2rpo.yaml",
        "--trainer", CONFIGS / "strategy" / "ddp.yaml",
        "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.num_sanity_val_steps", "0",
        "--model.rollout.prompts", "4", "--data.max_completion_tokens", "8",
        "--trainer.callbacks", "helpers.failing.Fail",
        "--trainer.callbacks.init_args.rank", rank, "--trainer.callbacks.init_args.where", where,
    ]  # fmt: skip


@pytest.mark.parametrize(("where", "rank"), [("training_step", 1), ("reward", 0), ("data", 1)])
def test_no_rank_waits_for_one_that_failed(commands: Commands, where: str, rank: int) -> None:
    # it returns when the last rank is gone and so the pipes are closed
    done = commands.run(*failing(rank, where))
    assert done.returncode not in (0, 2)
    assert f"ValueError: a fault in {where}" in done.stderr
    assert f"rank {rank} of 2; all ranks end" in done.stderr
    if rank:
        assert "Connection closed" not in done.stderr
        assert done.stderr.rstrip().endswith("error: rank 0 stops, because rank 1 has failed; see its error")


def test_a_rank_that_was_killed_is_named_and_has_said_nothing(commands: Commands) -> None:
    done = commands.run(*failing(1, "killed"))
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.endswith("error: rank 0 stops, because rank 1 was killed (SIGKILL, out of memory?)")
    assert "see its error" not in done.stderr


def test_no_rank_outlives_a_first_one_that_is_killed_during_start_up(commands: Commands) -> None:
    run = commands.start(*failing(1, "data"), stderr=subprocess.STDOUT)

    def ranks() -> list[int]:
        assert run.poll() is None
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        return [int(child) for child in children if b"\0fit\0" in Path(f"/proc/{child}/cmdline").read_bytes()]

    eventually(lambda: bool(ranks()))
    (other,) = ranks()
    run.kill()
    run.wait()
    eventually(lambda: not alive(other))
