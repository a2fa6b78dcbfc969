"""Two processes that share a server learn what one process learns with the native engine."""

import json
from pathlib import Path

import pytest
import torch
from helpers.build import varied_score
from helpers.ddp_run import run
from helpers.paths import HELPERS
from helpers.processes import Commands
from helpers.vllm_stub import Stub, serving

import lit_g2rpo.rewards.running.scorer


def test_two_processes_with_one_server_learn_what_one_learns(
    random_folder: str, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
    with serving(Stub(random_folder)) as url:
        commands.python(HELPERS / "ddp_run.py", random_folder, tmp_path, 2, url)
    run(random_folder, tmp_path / "one", 1, "uneven")
    own, other = (json.loads((tmp_path / name / "steps.json").read_text()) for name in ("http", "one"))
    assert len(own) == len(other) == 4
    for ours, theirs in zip(own, other, strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        torch.testing.assert_close(torch.tensor(ours["advantages"]), torch.tensor(theirs["advantages"]))
