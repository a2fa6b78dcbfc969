"""A run from the command line and its continuation, read back."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import CONFIGS
from helpers.processes import Commands

from lit_g2rpo.__main__ import main

RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml")]


def small(policy: str) -> list[str]:
    """Words that make the default run a matter of seconds."""
    sizes = {
        "model.policy.path": policy,
        "model.rollout.prompts": "6",
        "model.rollout.group_size": "2",
        "data.val_per_task": "1",
        "data.max_completion_tokens": "8",
        "schedule.rollouts": "2",
        "schedule.validate_every": "1",
        "schedule.checkpoint_every": "1",
        "trainer.accelerator": "cpu",
    }
    return [word for key, value in sizes.items() for word in (f"--{key}", value)]


def test_a_run_and_its_continuation_share_a_folder(
    random_folder: str, tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    # a random policy has nothing but tied groups, and an alarm says so
    quiet = ["-W", "error::UserWarning", "-W", "ignore:alarm:UserWarning"]
    cli = [sys.executable, *quiet, "-m", "lit_g2rpo"]
    first = commands.run(*cli, "fit", *RECIPE, *small(random_folder))
    assert first.returncode == 0, first.stderr
    for noise in ("Warning", "GPU available", "Tip:", "Loading weights", "not set, defaulting"):
        assert noise not in first.stdout + first.stderr
    run = tmp_path / "runs" / "g2rpo" / "version_0"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    again = commands.run(
        *cli, "fit", "--config", run / "config.yaml", "--schedule.rollouts", "3", "--ckpt_path", "last"
    )
    assert again.returncode == 0, again.stderr
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    assert {"train/loss", "1 overview/reward", "1 overview/accuracy (validation)"} <= set(events.Tags()["scalars"])
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3]
    capsys.readouterr()
    assert main(["validate", *RECIPE, *small("package:lit_g2rpo.nowhere/weights"), "--ckpt_path", "last"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: model.policy.path")
