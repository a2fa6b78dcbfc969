"""The fragment that ``calibrate`` writes is taken by the next fit."""

import shlex
from pathlib import Path

import yaml
from helpers.paths import CONFIGS

from lit_g2rpo.__main__ import main


def test_the_next_fit_takes_the_fragment(commands, capsys):
    recipe = ["--config", str(CONFIGS / "g2rpo.yaml")]
    assert main(["calibrate", *recipe, "--prompts_per_task", "4", "--seed_everything", "3"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line.partition("python -m lit_g2rpo ")[2])
    assert words[0] == "fit"
    sizes = ["--schedule.rollouts", "1", "--data.val_per_task", "1"]
    assert "rollout 1/1" in commands.python("-m", "lit_g2rpo", *words, *sizes)
    config = yaml.safe_load(Path("runs/g2rpo/version_0/config.yaml").read_text())
    proposed = yaml.safe_load(Path("bands.yaml").read_text())
    assert config["data"]["init_args"]["tasks"] == proposed["init_args"]["tasks"]
    assert config["data"]["init_args"]["seed"] == "${...seed_everything}", "the rest of the recipe's data stays"
    assert config["seed_everything"] == 3
