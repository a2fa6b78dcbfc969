"""The command line when its output is closed, its folder is taken, or its newest checkpoint is broken."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import CONFIGS
from helpers.processes import Commands, read_until

from lit_g2rpo.__main__ import main
from lit_g2rpo.callbacks.run_folder import FolderInUse, locked

RECIPE = [
    "--config", str(CONFIGS / "g2rpo.yaml"), "--schedule.validate_every=2", "--schedule.checkpoint_every=1",
    "--model.rollout.prompts=12", "--model.rollout.group_size=2", "--data.init_args.val_per_task=1",
]  # fmt: skip
LOCK = "import sys; from lit_g2rpo.callbacks.run_folder import locked; from pathlib import Path; \
        held = locked(Path(sys.argv[1]), 'fit'); print('held', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> tuple[Path, str]:
    """A run of two rollouts behind ``| head -1``."""
    folder = tmp_path_factory.mktemp("headed")
    words = [sys.executable, "-m", "lit_g2rpo", "fit", *RECIPE, "--schedule.rollouts=2"]
    process = shared_commands.start(*words, cwd=folder)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0, errors[-3000:]
    return folder, errors


def test_a_closed_pipe_ends_nothing(headed: tuple[Path, str]) -> None:
    folder, errors = headed
    assert errors.count("standard output cannot be written (Broken pipe); the run continues without it") == 1
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    run = folder / "runs/g2rpo/version_0"
    assert (run / "checkpoints/last.ckpt").resolve().name == "rollout=00002-step=000004.ckpt"


def test_a_folder_in_use_is_refused_and_left_alone(
    headed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], commands: Commands
) -> None:
    run = headed[0] / "runs/g2rpo/version_0"
    holder = commands.start(sys.executable, "-c", LOCK, run, stdin=subprocess.PIPE)
    read_until(holder.stdout, "held")
    with pytest.raises(FolderInUse, match=rf"in use by another run \(process {holder.pid} on \S+\); wait for its end"):
        locked(run, "fit")
    before = contents(run)
    monkeypatch.chdir(headed[0])
    assert main(["fit", *RECIPE, "--schedule.rollouts=3", "--ckpt_path", "last"]) == 2
    assert f"is in use by another run (process {holder.pid} on" in capsys.readouterr().err
    assert contents(run) == before
    # a run that was killed is in nobody's way
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = locked(run, "fit")
    assert lock is not None
    lock.close()


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run; Lightning begins an empty file of events before it asks anybody."""
    files = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith("events")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_the_one_before_a_broken_checkpoint_is_taken_in_its_folder(
    headed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = headed
    monkeypatch.chdir(folder)
    checkpoints = folder / "runs/g2rpo/version_0/checkpoints"
    newest = (checkpoints / "last.ckpt").resolve()
    whole = newest.read_bytes()
    newest.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.warns(UserWarning, match=r"rollout=00002-step=000004.ckpt is not intact: .*; trying the previous one"):
        code = main(["fit", *RECIPE, "--schedule.rollouts=2", "--ckpt_path", "last"])
    assert code == 0, capsys.readouterr().err
    # from the first rollout again, bit for bit, and in the same folder
    assert not (folder / "runs/g2rpo/version_1").exists()
    assert tensors(newest.read_bytes(), checkpoints) == tensors(whole, checkpoints)


def tensors(content: bytes, folder: Path) -> Any:
    import torch

    (folder / "compared.pt").write_bytes(content)
    saved = torch.load(folder / "compared.pt", weights_only=True)
    os.remove(folder / "compared.pt")
    moments = saved["optimizer_states"][0]["state"]
    return {key: weight.tolist() for key, weight in saved["state_dict"].items()}, str(moments)


def test_a_broken_checkpoint_named_by_its_path_is_one_line(
    headed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(headed[0])
    Path("cut.ckpt").write_bytes(next(Path("runs").glob("**/best*.ckpt")).read_bytes()[:-1000])
    for verb in ("fit", "test"):
        assert main([verb, *RECIPE, "--schedule.rollouts=3", "--ckpt_path", "cut.ckpt"]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert re.match(r"error: --ckpt_path cut.ckpt is not an intact checkpoint: .*; last is the newest", line)
