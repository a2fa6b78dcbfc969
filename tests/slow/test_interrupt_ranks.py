"""GracefulInterrupt on two ranks: a signal to any of them, or to all, as a terminal sends it."""

import os
import re
import signal
import subprocess
import sys

import pytest
from helpers.paths import CONFIGS, HELPERS
from helpers.processes import finished, read_until


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path, commands):
    commands.python(HELPERS / "signals.py", tmp_path)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert (tmp_path / "toy/version_0/checkpoints/last.ckpt").exists()


STRATEGIES = {
    "fsdp2": """
strategy: {class_path: lit_g2rpo.strategies.FSDP2Strategy, init_args: {process_group_backend: gloo}}
""",
    "zero2": """
strategy: {class_path: lit_g2rpo.strategies.G2RPODeepSpeedStrategy, init_args: {stage: 2}}
""",
}


def fit(commands, *words):
    """Start a run from the command line; its process group is as a terminal makes one."""
    return commands.start(sys.executable, "-m", "lit_g2rpo", "fit", *words, stderr=subprocess.STDOUT)


def two_ranks(commands, folder, strategy):
    fragment = folder / "strategy.yaml"
    fragment.write_text(STRATEGIES[strategy] + "accelerator: cpu\ndevices: 2\n")
    sizes = "--model.rollout.prompts 8 --model.rollout.group_size 2 --data.max_completion_tokens 8"
    recipe = ["--config", CONFIGS / "g2rpo.yaml", "--trainer", fragment]
    return fit(commands, *recipe, *sizes.split(), "--data.val_per_task", "2", "--schedule.rollouts", "60")


def last(folder):
    return (folder / "runs/g2rpo/version_0/checkpoints/last.ckpt").resolve().name


@pytest.mark.parametrize(("strategy", "number"), [("fsdp2", signal.SIGINT), ("zero2", signal.SIGTERM)])
def test_two_ranks_that_share_state_save_leave_and_resume(tmp_path, commands, strategy, number):
    """Ctrl-C reaches every process of a terminal's group; SIGTERM is sent to the one that was started."""
    run = two_ranks(commands, tmp_path, strategy)
    read_until(run.stdout, "rollout 1/60")
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    done = finished(run)
    said = done.stdout
    assert done.returncode == 0, said
    assert "Traceback" not in said
    folder = "runs/g2rpo/version_0"
    stopped = re.search(r"Stopped after optimizer step (\d+) \(rollout (\d+)\)", said)
    assert f"fit --run {folder}\n" in said
    step, rollout = map(int, stopped.groups())
    assert last(tmp_path) == f"rollout={rollout:05d}-step={step:06d}.ckpt"

    resumed = finished(fit(commands, "--run", folder, "--schedule.rollouts", rollout + 1))
    assert resumed.returncode == 0, resumed.stdout
    assert last(tmp_path) == f"rollout={rollout + 1:05d}-step={2 * rollout + 2:06d}.ckpt"


def test_two_ranks_end_at_once_before_the_training(tmp_path, commands):
    """Here ranks are at different places of their collectives."""
    run = two_ranks(commands, tmp_path, "fsdp2")
    read_until(run.stdout, "pre-flight check, largest")
    run.terminate()
    done = finished(run)
    assert done.returncode == 1, done.stdout
    assert "validation after" not in done.stdout
    assert "Traceback" not in done.stdout
