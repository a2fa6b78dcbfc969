"""RunSummary and RunRecord on a real trainer."""

import json
import re

from helpers.terminal import Terminal
from helpers.toy import ToyModule, fit
from rich.console import Console

from lit_g2rpo.callbacks import RolloutCheckpoint, RunRecord, RunSummary
from lit_g2rpo.callbacks.run_record import git_commit
from lit_g2rpo.callbacks.summary import change, validation_table


def test_tables_at_start_and_end(tmp_path, capsys):
    module = ToyModule(validation=lambda rollout: 0.3 + rollout / 50)
    fit(module, tmp_path, [RunSummary(), RolloutCheckpoint()], rollouts=4)
    output = capsys.readouterr().out
    start, end = output.split("val/accuracy after 0 and after 4 rollouts")
    assert re.search(r"policy +toy \(4 parameters\)", start)
    assert re.search(r"updates +2 per rollout", start)
    rows = [line.split() for line in end.splitlines() if line.strip()]
    assert ["task", "rows", "before", "after", "change"] in rows
    assert ["a", "3", "0.200", "0.280", "+0.080"] in rows
    assert ["b", "4", "0.400", "0.480", "+0.080"] in rows
    assert ["mean", "7", "0.300", "0.380", "+0.080"] in rows
    folder = str(tmp_path / "toy/version_0")
    # on one line each, however long, to be copied
    assert f"tensorboard --logdir {folder}\n" in end
    assert f'trainer.fit(module, datamodule=data, ckpt_path="{folder}/checkpoints/last.ckpt")\n' in end
    assert "best-rollout=00004.ckpt (val/accuracy 0.380)" in end


def test_the_last_lines_name_the_page_of_rollouts(tmp_path, capsys):
    fit(ToyModule(), tmp_path, [RunSummary()], rollouts=2)
    assert "rollouts: " not in capsys.readouterr().out, "where there is none"
    page = tmp_path / "toy/version_0/rollouts/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    fit(ToyModule(), tmp_path, [RunSummary()], rollouts=2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:2] == ["rollouts:", str(page)]


def test_gains_are_green_and_losses_red_on_a_terminal_that_may_have_color(monkeypatch):
    before = {"val/accuracy": 0.5, "val/accuracy/a": 0.2, "val/accuracy/b": 0.8, "val/accuracy/c": 0.5}
    after = {"val/accuracy": 0.5, "val/accuracy/a": 0.3, "val/accuracy/b": 0.7, "val/accuracy/c": 0.5002}
    terminal = Terminal(monkeypatch)
    Console().print(validation_table(before, after, {}))
    green, red = "\x1b[32m+0.100", "\x1b[31m-0.100"
    assert green in terminal.getvalue()
    assert red in terminal.getvalue()
    assert [change(0.5, 0.5002).style, change(0.5, 0.4998).style, change(None, 0.5).style] == ["", "", ""]
    plain = Terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    Console().print(validation_table(before, after, {}))
    assert "+0.100" in plain.getvalue()
    assert not re.search(r"\x1b\[3\dm", plain.getvalue())


def test_a_run_that_gained_nothing_says_so_last(tmp_path, capsys):
    fit(ToyModule(validation=lambda rollout: 0.5 - rollout / 50), tmp_path, [RunSummary()], rollouts=4)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("nothing gained: val/accuracy is 0.420, at the start 0.500: a 0.400 -> 0.320, b 0.600")
    fit(ToyModule(), tmp_path, [RunSummary()], rollouts=4)
    assert "nothing gained" not in capsys.readouterr().out


def test_a_saved_config_shortens_the_command(tmp_path, capsys):
    folder = tmp_path / "toy/version_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {}\n")
    fit(ToyModule(), tmp_path, [RunSummary(), RolloutCheckpoint()], rollouts=2)
    assert f"python -m lit_g2rpo fit --run {folder}\n" in capsys.readouterr().out


def test_without_validation_there_is_no_table(tmp_path, capsys):
    fit(ToyModule(), tmp_path, [RunSummary()], rollouts=2, limit_val_batches=0)
    output = capsys.readouterr().out
    assert "before" not in output
    assert "tensorboard --logdir" in output


def test_the_record_says_what_the_run_was_made_with(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "toy/version_0"
    fit(ToyModule(), tmp_path, [RunRecord()], rollouts=1)
    record = json.loads((folder / "versions.json").read_text())
    assert record["device"] == "cpu"
    assert record["ranks"] == 1
    assert {"torch", "lightning", "transformers"} <= record["packages"].keys()
    events = EventAccumulator(str(folder)).Reload()
    assert "run/versions/text_summary" in events.Tags()["tensors"]


def test_a_commit_is_named_only_for_a_tracked_file(tmp_path, commands):
    file = tmp_path / "module.py"
    file.write_text("1\n")
    assert git_commit(file) is None

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = commands.run("git", "-C", tmp_path, *identity, *arguments)
        assert done.returncode == 0, done.stderr
        return done

    git("init")
    assert git_commit(file) is None
    git("add", "module.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_commit(file) == commit
    file.write_text("2\n")
    assert git_commit(file) == f"{commit}-dirty"
