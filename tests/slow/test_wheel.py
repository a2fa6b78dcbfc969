"""What people install: a wheel made from the sdist trains in an empty folder, far from any checkout."""

import os
import sys
from pathlib import Path

import pytest
from helpers.processes import Commands
from helpers.source import copy_source

from lit_g2rpo.training.curve_file import CURVES, read_points


def test_an_empty_folder_and_a_wheel_run_the_default_job(tmp_path: Path, commands: Commands) -> None:
    pytest.importorskip("build")
    source = copy_source(tmp_path / "source")
    # without a format, the wheel is made from the sdist
    commands.python("-m", "build", "--no-isolation", "--outdir", tmp_path, source)
    [wheel] = tmp_path.glob("*.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    commands.python("-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel)
    empty.mkdir()
    elsewhere = {"cwd": empty, "env": {**os.environ, "PYTHONPATH": str(installed)}}
    where = commands.python("-c", "import lit_g2rpo; print(lit_g2rpo.__file__)", **elsewhere)
    assert Path(where.strip()) == installed / "lit_g2rpo" / "__init__.py"
    words = ["--schedule.rollouts", "3", "--data.val_per_task", "4", "--trainer", "package:strategy/cpu.yaml"]
    commands.python("-m", "lit_g2rpo", "fit", "--config", "package:g2rpo.yaml", *words, **elsewhere)
    points = read_points(empty / "runs" / "g2rpo" / "version_0" / CURVES)
    assert [point["rollout"] for point in points if "rollout/reward" in point] == [1, 2, 3]
    assert {"val/accuracy"} <= points[-1].keys()
    assert sorted(path.name for path in empty.iterdir()) == ["runs"]
    version = commands.run(sys.executable, installed / "bin" / "lit_g2rpo", "--version", **elsewhere)
    assert version.stdout == f"lit_g2rpo {wheel.name.split('-')[1]}\n"
