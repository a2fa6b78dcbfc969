"""Sweeps from the command line: runs side by side, failures, Ctrl-C, and the same command once more."""

import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from helpers.paths import CONFIGS
from helpers.processes import Commands, finished, read_until

TRAINER = """\
# fills trainer
accelerator: cpu
devices: 1
num_sanity_val_steps: 0
enable_model_summary: false
logger:
  class_path: lightning.pytorch.loggers.TensorBoardLogger
  init_args: {save_dir: runs}
callbacks:
  - class_path: helpers.failing.Fail
    init_args: {rank: RANK, where: training_step}
  - class_path: lit_g2rpo.callbacks.GracefulInterrupt
  - class_path: lit_g2rpo.callbacks.RolloutCheckpoint
    init_args: {every_rollouts: 1, monitor: null}
"""


@pytest.fixture
def sweep() -> list[str]:
    """A small sweep in the working directory, without its seeds."""
    for name, rank in {"failing": "0", "whole": "1", "later": "2"}.items():
        Path(f"{name}.yaml").write_text(TRAINER.replace("RANK", rank))
    words = [sys.executable, "-m", "lit_g2rpo", "sweep", "--config", str(CONFIGS / "g2rpo.yaml")]
    words += ["--model.rollout.prompts", "2", "--data.max_completion_tokens", "4", "--data.val_per_task", "1"]
    return [*words, "--model.rollout.group_size", "2", "--schedule.validate_every", "1", "--parallel", "2"]


def curves(name: str) -> str:
    return Path("runs/sweep", name, "curves.jsonl").read_text()


def test_a_run_that_fails_stops_no_other_and_is_named(commands: Commands, sweep: list[str]) -> None:
    # the second runs beside the one that fails, and the third starts after it
    words = [*sweep, "--schedule.rollouts", "1", "--vary", "trainer", "failing.yaml", "whole.yaml", "later.yaml"]
    done = commands.run(*words)
    assert done.returncode == 1, done.stderr
    table = done.stdout.partition("3 of 3 runs to do, 2 at a time, in runs/sweep")[0]
    names = [f"trainer={name}" for name in ("failing", "whole", "later")]
    assert [line.split()[0] for line in table.strip().splitlines()[-3:]] == names
    assert "2 of 3 runs are finished\n1 failed:\n" in done.stdout
    log = "runs/sweep/logs/trainer=failing.log"
    assert log in done.stdout
    assert "a fault in training_step" in Path(log).read_text()
    assert Path("runs/sweep/compare.html").exists()


def test_ctrl_c_ends_the_runs_and_says_how_they_go_on(commands: Commands, sweep: list[str]) -> None:
    words = [*sweep, "--seeds", "2", "--trainer", "whole.yaml", "--schedule.rollouts"]
    process = commands.start(*words, "400")
    seen = read_until(process.stdout, "seed=0: rollout 1 of 400")
    while "seed=1: rollout" not in seen:
        seen += read_until(process.stdout, "seed=")
    os.kill(process.pid, signal.SIGINT)
    stopped = finished(process)
    assert stopped.returncode == 1
    assert "SIGINT: the runs save and leave" in stopped.stderr
    assert "0 of 2 runs are finished" in stopped.stdout
    assert "Repeat the command to resume them." in stopped.stdout
    for seed in (0, 1):
        assert "SIGINT: saving at the next optimizer step" in Path(f"runs/sweep/logs/seed={seed}.log").read_text()
    # another length is another recipe
    other = commands.run(*words, "401")
    assert other.returncode == 2
    assert other.stderr == (
        "error: --output runs/sweep contains a sweep of another recipe: schedule.rollouts is 400 in seed=0.yaml and "
        "401 here; give another --output\n"
    )


def test_what_is_finished_is_not_repeated_and_what_was_cut_off_goes_on(commands: Commands, sweep: list[str]) -> None:
    words = [*sweep, "--seeds", "2", "--trainer", "whole.yaml", "--schedule.rollouts", "2"]
    first = commands.run(*words)
    assert first.returncode == 0, first.stderr
    whole = {name: curves(name) for name in ("seed=0", "seed=1")}
    assert yaml.safe_load(Path("runs/sweep/seed=1/config.yaml").read_text())["seed_everything"] == 1
    times = {name: Path("runs/sweep", name, "curves.jsonl").stat().st_mtime_ns for name in whole}
    # as if seed 1 had been killed after its first rollout, before it saved the second
    checkpoints = Path("runs/sweep/seed=1/checkpoints")
    (later,) = checkpoints.glob("rollout=00002*")
    (earlier,) = checkpoints.glob("rollout=00001*")
    later.unlink()
    (checkpoints / "last.ckpt").unlink()
    (checkpoints / "last.ckpt").symlink_to(earlier.name)
    again = commands.run(*words)
    assert again.returncode == 0, again.stderr
    assert "resumes after rollout 1" in again.stdout
    assert "1 of 2 runs to do" in again.stdout
    assert Path("runs/sweep/seed=0/curves.jsonl").stat().st_mtime_ns == times["seed=0"]

    def figures(text: str) -> list[str]:
        return [line.partition('"train/loss": ')[2].split(",")[0] for line in text.splitlines() if "train/loss" in line]

    assert figures(curves("seed=1")) == figures(whole["seed=1"]) != figures(whole["seed=0"])
