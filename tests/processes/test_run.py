"""The command line end to end on the embedded default: what a person finds afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.paths import CONFIGS
from helpers.processes import Commands

from lit_g2rpo.__main__ import main

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
        assert f"{name}/ocr" in scalars, name
    for name in (
        "train/loss", "train/learning_rate", "train/clip_fraction", "train/grad_norm",
        "perf/rollout_seconds", "perf/score_seconds", "perf/logprobs_seconds",
        "perf/update_seconds", "perf/tokens_per_second", "val/accuracy", "rollout/entropy",
    ):  # fmt: skip
        assert name in scalars, name
    # before training, and after the fourth optimizer step, which is number 3
    assert [event.step for event in events.Scalars("val/accuracy")] == [0, 3]
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2, 3] or len(
        events.Scalars("train/loss")
    ) >= 2
    assert events.Tags()["images"]
    texts = " ".join(events.Tags()["tensors"])
    assert "config" in texts
    assert "custom_scalars" in texts


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


def test_resume_continues_in_the_same_folder(follow: Callable[..., str]) -> None:
    said = follow("fit", "--schedule.rollouts=3")
    assert [path.name for path in Path("runs/g2rpo").iterdir()] == ["version_0"]
    assert "rollout 3/3" in said
