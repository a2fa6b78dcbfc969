"""RolloutProgress on a real trainer."""

import re

import pytest
from helpers.terminal import Terminal
from helpers.toy import ToyModule, fit

from lit_g2rpo.callbacks import RolloutProgress
from lit_g2rpo.errors import UserError


def test_a_log_file_gets_a_line_every_few_rollouts(tmp_path, capsys):
    fit(ToyModule(), tmp_path, [RolloutProgress(every_rollouts=3)], rollouts=7, validate_every=4)
    output = capsys.readouterr().out
    assert "\r" not in output
    lines = [line for line in output.splitlines() if line.startswith(("rollout", "validation"))]
    assert [line.split("  ")[0] for line in lines] == [
        "validation after 0 rollouts: accuracy 0.000",
        "rollout 1/7",
        "rollout 3/7",
        "validation after 4 rollouts: accuracy 0.040",
        "rollout 6/7",
        "rollout 7/7",
    ]
    assert "reward 0.500  accuracy 0.250  length 30 tokens" in lines[1]
    assert "left 0:0" in lines[1]


def test_a_terminal_gets_a_bar_in_rollouts(tmp_path, monkeypatch):
    terminal = Terminal(monkeypatch)
    fit(ToyModule(), tmp_path, [RolloutProgress()], rollouts=4, validate_every=2)
    bar = r"rollout 3/4 .* elapsed 0:\d\d left reward 0.500  accuracy 0.250  length 30 tokens"
    assert re.search(bar, terminal.text)
    assert "validation after 2 rollouts: accuracy 0.020" in terminal.text
    assert "rollout 5" not in terminal.text
    # the bar goes, and a line stays
    assert re.search(r"rollout 4/4  reward 0.500  accuracy 0.250  length 30 tokens  \d+\.\d s/rollout", terminal.text)


def test_slow_rollouts_take_a_line_each_in_a_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lit_g2rpo.callbacks.progress.PAUSE", 0.0)
    fit(ToyModule(), tmp_path, [RolloutProgress(every_rollouts=100)], rollouts=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rollout")]
    assert [line.split("  ")[0] for line in lines] == [f"rollout {number}/4" for number in (1, 2, 3, 4)]


def test_a_resumed_run_counts_on(tmp_path, capsys):
    trainer = fit(ToyModule(), tmp_path, [], rollouts=3)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    fit(ToyModule(), tmp_path, [RolloutProgress()], rollouts=5, checkpoint=str(tmp_path / "cut.ckpt"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rollout")]
    assert [line.split()[1] for line in lines] == ["4/5", "5/5"]


def test_it_can_be_silenced(tmp_path, capsys):
    progress = RolloutProgress()
    progress.disable()
    fit(ToyModule(), tmp_path, [progress], rollouts=2)
    assert "rollout" not in capsys.readouterr().out


def test_arguments_are_checked():
    with pytest.raises(UserError, match="every_rollouts"):
        RolloutProgress(every_rollouts=0)
