"""The command line end to end on the embedded default: what a person finds afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--schedule.rollouts=2", "--schedule.validate_every=2", "--schedule.checkpoint_every=1",
    "--model.rollout.prompts=12", "--model.rollout.group_size=2",
    "--data.init_args.val_per_task=2", "--data.init_args.test_per_task=2",
]  # fmt: skip


def command(verb: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    config = ["--config", str(ROOT / "configs" / "g2rpo.yaml"), *SMALL]
    return subprocess.run(
        [sys.executable, "-m", "lit_g2rpo", verb, *config, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("fit")
    result = command("fit", folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


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


def test_test_writes_predictions_and_metrics(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = fitted[0]
    result = command("test", folder, "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr[-3000:]
    [predictions] = (folder / "runs").glob("**/predictions.jsonl")
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(12))
    metrics = json.loads(next((folder / "runs").glob("**/metrics.json")).read_text())
    assert "ocr" in json.dumps(metrics)
    assert "ocr" in result.stdout


def test_validate_prints_the_table(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = command("validate", fitted[0], "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("spatial_grounding") == 1


def test_resume_continues_in_the_same_folder(fitted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = command("fit", fitted[0], "--ckpt_path", "last", "--schedule.rollouts=3")
    assert result.returncode == 0, result.stderr[-3000:]
    assert [path.name for path in (fitted[0] / "runs" / "g2rpo").iterdir()] == ["version_0"]
    assert "rollout 3/3" in result.stdout + result.stderr
