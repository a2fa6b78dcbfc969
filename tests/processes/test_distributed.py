"""Two real gloo processes give the loss, gradients and advantages of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).parents[1]


def run(folder: str, out: Path, devices: int, kind: str, *path: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, str(TESTS / "helpers" / "ddp_run.py"), folder, str(out), str(devices), kind, *path]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((out / "steps.json").read_text()), torch.load(out / "tensors.pt")


@pytest.mark.parametrize("kind", ["mini", "mixed"])
def test_two_processes_learn_what_one_learns(random_folder: str, tmp_path: Path, kind: str) -> None:
    """``mixed``: one rank never sees an image and has an empty micro-batch in every optimizer step."""
    one_steps, one = run(random_folder, tmp_path / "one", 1, kind)
    two_steps, two = run(random_folder, tmp_path / "two", 2, kind)
    assert len(one_steps) == len(two_steps) > 1
    for a, b in zip(one_steps, two_steps, strict=True):
        torch.testing.assert_close(torch.tensor(a["advantages"]), torch.tensor(b["advantages"]))
        assert torch.tensor(a["advantages"]).abs().max() > 0.5
        assert a["tokens"] == b["tokens"]
        assert a["reward"] == pytest.approx(b["reward"], abs=1e-9)
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
    for a, b in zip(one["gradients"], two["gradients"], strict=True):
        scale = max(g.abs().max() for g in a.values())
        assert scale > 1e-3
        for name in a:
            assert (a[name] - b[name]).abs().max() < 1e-4 * scale, name
    validations = [json.loads((tmp_path / name / "validation.json").read_text()) for name in ("one", "two")]
    assert validations[0] == pytest.approx(validations[1], abs=1e-6)
    assert validations[0]["rows"] == (30 if kind == "mini" else 0)
    # AdamW's first steps divide by the gradient's own size: where it is near 0, its rounding decides the direction.
    moved = torch.cat([(one["weights"][n] - two["weights"][n]).flatten().abs() for n in one["weights"]])
    assert moved.quantile(0.99) < 1e-5
