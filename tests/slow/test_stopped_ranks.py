"""Two ranks of which one is stopped or hangs: the other names it, saves what it can, and can be ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import HELPERS
from helpers.processes import Commands, alive, eventually, finished, read_until

SCRIPT = HELPERS / "stopped_rank.py"


def start(commands: Commands, folder: Path, *words: object) -> "subprocess.Popen[str]":
    return commands.start(sys.executable, SCRIPT, folder, *words, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_rank_that_is_stopped_is_named_and_the_last_step_is_saved(
    tmp_path: Path, commands: Commands, bad: int
) -> None:
    good = 1 - bad
    run = start(commands, tmp_path, "sampling", "stop", bad)
    stopped = int(read_until(run.stdout, "pid").rpartition(" ")[2])
    read_until(run.stdout, f"rank {good} waits: rank {bad} has been silent for ")
    read_until(run.stdout, f"saved step 4 as {tmp_path}/checkpoints/rollout=00002-step=000004.ckpt")
    children = [int(child) for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    other = next(child for child in children if b"stopped_rank" in Path(f"/proc/{child}/cmdline").read_bytes())
    assert stopped == (other if bad else run.pid)
    working = run.pid if bad else other
    os.kill(working, signal.SIGTERM)
    read_until(run.stdout, f"SIGTERM: rank {good} cannot stop yet; rank {bad} has been silent for ")
    os.kill(working, signal.SIGTERM)
    read_until(run.stdout, f"SIGTERM again: rank {good} ends without saving more")
    if bad:
        assert finished(run).returncode == 128 + signal.SIGTERM
    eventually(lambda: not alive(working))
    run.kill()
    eventually(lambda: not alive(stopped))
    # and nothing that was learned is lost
    resumed = finished(start(commands, tmp_path, "nowhere", "-", 0, tmp_path / "checkpoints" / "last.ckpt"))
    assert resumed.returncode == 0, resumed.stdout
    straight = finished(start(commands, tmp_path / "straight", "nowhere", "-", 0))
    assert straight.returncode == 0, straight.stdout
    weights = [torch.load(folder / "weight.pt") for folder in (tmp_path, tmp_path / "straight")]
    assert torch.equal(*weights)


def test_a_rank_that_hangs_in_the_midst_of_a_rollout_is_named(tmp_path: Path, commands: Commands) -> None:
    run = start(commands, tmp_path, "learning", "hang", 1)
    read_until(run.stdout, "rank 0 waits: rank 1 has been behind for ")
    for said in ("SIGINT: rank 0 cannot stop yet; rank 1 has been behind", "SIGINT again: rank 0 ends"):
        os.kill(run.pid, signal.SIGINT)
        read_until(run.stdout, said)
    assert finished(run).returncode == 128 + signal.SIGINT


def test_a_rank_that_goes_on_costs_nothing(tmp_path: Path, commands: Commands) -> None:
    run = start(commands, tmp_path, "learning", "stop", 1)
    stopped = int(read_until(run.stdout, "pid").rpartition(" ")[2])
    read_until(run.stdout, "nothing can be saved in the midst of a rollout")
    os.kill(stopped, signal.SIGCONT)
    done = finished(run)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "weight.pt").exists()
