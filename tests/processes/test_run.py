"""The command line end to end on the embedded default: what a person finds afterwards."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.paths import CONFIGS
from helpers.processes import Commands

from lit_g2rpo.__main__ import main
from lit_g2rpo.loggers.tensorboard import tag_of

SMALL = [
    "--schedule.rollouts=2", "--schedule.validate_every=2", "--schedule.checkpoint_every=1",
    "--model.rollout.prompts=12", "--model.rollout.group_size=2",
    "--data.init_args.val_per_task=2", "--data.init_args.test_per_task=2",
]  # fmt: skip


RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml"), *SMALL]


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands
) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    folder = tmp_path_factory.mktemp("fit")
    command = [sys.executable, "-m", "lit_g2rpo", "fit", *RECIPE]
    result = shared_commands.run(*command, cwd=folder, env=os.environ | {"COLUMNS": "120"})
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


@pytest.fixture
def follow(
    fitted: "tuple[Path, subprocess.CompletedProcess[str]]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Run another verb on that run, here, and return what it prints."""
    monkeypatch.chdir(fitted[0])
    monkeypatch.setenv("COLUMNS", "120")

    def run(verb: str, *words: str) -> str:
        code = main([verb, *RECIPE, "--ckpt_path", "last", *words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out + said.err

    return run


def test_the_console_says_what_runs_and_what_came_of_it(
    fitted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, result = fitted
    for words in ("policy", "12 prompts x 2 = 24 completions", "2 optimizer steps", "accuracy", "before", "after"):
        assert words in result.stdout
    assert "tensorboard --logdir runs/g2rpo/version_0" in result.stdout
    assert "Warning" not in result.stdout + result.stderr
    assert result.stderr.strip() == ""


def test_tensorboard_has_every_curve_in_total_and_per_task(
    fitted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(fitted[0] / "runs" / "g2rpo" / "version_0"), size_guidance={"scalars": 0})
    events.Reload()
    scalars = events.Tags()["scalars"]
    for name in (
        "rollout/reward", "rollout/accuracy", "rollout/length", "rollout/truncated", "train/entropy",
        "val/accuracy", "entropy_bounds",
    ):  # fmt: skip
        assert tag_of(f"{name}/ocr") in scalars, name
    for name in (
        "train/loss", "train/learning_rate", "train/clip_fraction", "train/grad_norm",
        "perf/rollout_seconds", "perf/score_seconds", "perf/logprobs_seconds",
        "perf/update_seconds", "perf/tokens_per_second", "val/accuracy", "rollout/entropy",
    ):  # fmt: skip
        assert tag_of(name) in scalars, name
    # the axis counts rollouts; 0 is before training
    assert [event.step for event in events.Scalars(tag_of("val/accuracy"))] == [0, 2]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert events.Tags()["images"]
    texts = " ".join(events.Tags()["tensors"])
    assert "config" in texts


def test_the_run_folder_holds_config_versions_and_checkpoints(
    fitted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run = fitted[0] / "runs" / "g2rpo" / "version_0"
    assert (run / "config.yaml").is_file()
    assert "torch" in json.loads((run / "versions.json").read_text())["packages"]
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert "last.ckpt" in names
    assert any(name.startswith("best-rollout=") for name in names)


def test_test_writes_predictions_and_metrics(follow: Callable[..., str]) -> None:
    said = follow("test")
    [predictions] = Path("runs").glob("**/predictions.jsonl")
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(12))
    metrics = json.loads(next(Path("runs").glob("**/metrics.json")).read_text())
    assert "ocr" in json.dumps(metrics)
    assert "ocr" in said


def test_validate_prints_the_table(follow: Callable[..., str]) -> None:
    assert follow("validate").count("spatial_grounding") == 1


RUN = Path("runs/g2rpo/version_0")


def on_run(capsys: pytest.CaptureFixture[str], verb: str, *words: str, run: Path = RUN) -> str:
    """Run a verb on the folder of a run, and return what it prints."""
    capsys.readouterr()
    code = main([verb, "--run", str(run), *words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


@pytest.fixture
def copied(
    fitted: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The run in a folder of its own, where the test may go on with it."""
    shutil.copytree(fitted[0] / "runs", "runs", symlinks=True)
    return tmp_path


def test_a_finished_run_says_how_to_go_on(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(RUN.rglob("*"))
    assert on_run(capsys, "fit").endswith("\n2 of 2 rollouts are done; to continue, add --more N\n")
    assert sorted(RUN.rglob("*")) == before


def test_a_run_goes_on_with_what_its_command_line_says(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = {name: (RUN / name).read_text() for name in ("config.yaml", "versions.json")}
    said = on_run(capsys, "fit", "--more", "1", "--model.optimizer.init_args.lr", "1e-3")
    assert "model.optimizer.init_args.lr: 6e-05 in the checkpoint, 0.001 from now on" in said
    assert "schedule.rollouts: 2 in the checkpoint, 3 from now on" in said
    assert "rollout 3/3" in said
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    rates = EventAccumulator(str(RUN), size_guidance={"scalars": 0}).Reload().Scalars("train/learning_rate")
    assert {point.step: point.value for point in rates}[3] == pytest.approx(1e-3)
    assert {name: (RUN / name).read_text() for name in first} == first
    assert (RUN / "versions-00002.json").is_file()
    record = yaml.safe_load((RUN / "config-00002.yaml").read_text())
    assert record["model"]["optimizer"]["init_args"]["lr"] == 1e-3
    assert record["data"]["init_args"]["seed"] == "${...seed_everything}"
    # and so it does when it goes on once more
    said = on_run(capsys, "fit", "--more", "1")
    assert "init_args.lr" not in said
    rates = EventAccumulator(str(RUN), size_guidance={"scalars": 0}).Reload().Scalars("train/learning_rate")
    assert {point.step: point.value for point in rates}[4] == pytest.approx(1e-3)


def test_a_refused_resume_leaves_no_record(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in RUN.iterdir())
    for words in (["--seed_everything", "3"], ["--model.optimizer.init_args.amsgrad", "true"]):
        assert main(["fit", "--run", str(RUN), "--more", "1", *words]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    records = [name for name in before if not name.startswith("events")]
    assert [name for name in sorted(path.name for path in RUN.iterdir()) if not name.startswith("events")] == records


def test_a_moved_run_goes_on_where_it_lies(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(RUN, "elsewhere")
    run = Path("elsewhere")
    on_run(capsys, "fit", "--more", "1", run=run)
    assert not list(Path("runs").rglob("*.ckpt"))
    names = {path.name for path in (run / "checkpoints").iterdir()}
    # the lists of kept and best checkpoints moved with it
    assert {"rollout=00003-step=000006.ckpt", "last.ckpt"} <= names
    assert sum(name.startswith("rollout=") for name in names) == 2
    assert sum(name.startswith("best-") for name in names) == 1


def test_every_verb_reads_the_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "micro-batch, worst case" in on_run(capsys, "plan")
    on_run(capsys, "export", "--output", "exported")
    assert Path("exported/config.json").is_file()
    said = on_run(capsys, "calibrate", "--prompts_per_task", "1", "--output", "bands.yaml")
    assert f"fit --config {RUN}/config.yaml --data bands.yaml" in said
    assert on_run(capsys, "validate", "--ckpt_path", "best").count("spatial_grounding") == 1
    on_run(capsys, "predict", "--limit", "1")
    assert {"config.yaml", "predict.yaml", "validate.yaml"} <= {path.name for path in RUN.glob("*.yaml")}
