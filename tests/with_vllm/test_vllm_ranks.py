"""Two gloo processes with vLLM in each, one between them, or a server, learn what one process learns."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import CONFIGS, HELPERS
from helpers.processes import Commands

STRATEGIES = ["ddp", "zero3", "fsdp2"]
SEPARATE = [*STRATEGIES, *(f"{name}-server" for name in STRATEGIES)]
KINDS = [*SEPARATE, "ddp-shared"]


@pytest.fixture(scope="module")
def out(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--config", CONFIGS / "g2rpo.yaml", "--model.policy.path", random_folder, "--port", port]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    shared_commands.start(sys.executable, "-m", "lit_g2rpo", "serve", *words, **quiet)
    script = HELPERS / "vllm_ranks_run.py"
    shared_commands.python(script, random_folder, folder, 1, "auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_URL", f"http://127.0.0.1:{port}")
        shared_commands.python(script, random_folder, folder, 2, *SEPARATE)
    # on its own, since vLLM groups the ranks of a process once
    shared_commands.python(script, random_folder, folder, 2, "ddp-shared")
    return folder


def read(out: Path, name: str, rank: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / f"{name}_rank{rank}.json").read_text())
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns(out: Path, kind: str) -> None:
    one, both = read(out, "auto"), read(out, kind)
    assert len(one["steps"]) == len(both["steps"]) == 4
    for a, b in zip(one["steps"], both["steps"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    assert one["validation"] == pytest.approx(both["validation"])
    assert one["steps"][0]["train/loss"] != one["steps"][2]["train/loss"], "two rollouts"


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_gathers_nothing_of_its_own(out: Path, kind: str) -> None:
    """Weights are gathered once as a rollout begins, if they are split; inside, ranks need not wait for each other."""
    for rank in range(2):
        gathered = read(out, kind, rank)["gathered"]
        assert len(gathered) == 2
        assert all(inside == after == 0 for _, inside, after in gathered)
        assert all((before > 0) == (not kind.startswith("ddp")) for before, _, _ in gathered)
    assert all(step["perf/push_mib"] > 1 for step in read(out, kind)["steps"])
