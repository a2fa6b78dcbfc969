"""The fragment that ``calibrate`` writes is taken by the next fit."""

import shlex
from pathlib import Path

import yaml
from helpers.paths import CONFIGS


def test_the_next_fit_takes_the_fragment(commands):
    def command(*words):
        return commands.python("-m", "lit_g2rpo", *words)

    recipe = ["--config", CONFIGS / "g2rpo.yaml"]
    line = command("calibrate", *recipe, "--prompts_per_task", "4", "--seed_everything", "3").splitlines()[-1]
    words = shlex.split(line.partition("python -m lit_g2rpo ")[2])
    assert words[0] == "fit"
    assert "rollout 1/1" in command(*words, "--schedule.rollouts", "1", "--data.val_per_task", "1")
    config = yaml.safe_load(Path("runs/g2rpo/version_0/config.yaml").read_text())
    proposed = yaml.safe_load(Path("bands.yaml").read_text())
    assert config["data"]["init_args"]["tasks"] == proposed["init_args"]["tasks"]
    assert config["data"]["init_args"]["seed"] == 3, "the rest of the recipe's data stays"
