"""Checkpoints that are folders, on two ranks: whole, resumed bit for bit, and a rank that cannot write ends nothing."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import HELPERS
from helpers.payload import Payload
from helpers.processes import Commands

from lit_g2rpo.errors import UserError
from lit_g2rpo.strategies.fsdp import INDEX, check_index
from lit_g2rpo.training.checkpoint_files import verify

STRATEGIES = ["zero2", "fsdp2"]


@pytest.fixture(scope="module", params=STRATEGIES)
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp(request.param)
    shared_commands.python(HELPERS / "folder_run.py", "package:lit_g2rpo.mini/weights", out, request.param)
    first, second = (json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    return out, first


def test_a_resumed_run_is_the_same_run(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    assert result["resumed"] == 0
    assert result["kept"] == ["last.ckpt", "rollout=00002-step=000004.ckpt", "rollout=00003-step=000006.ckpt"]


def test_a_rank_that_cannot_write_ends_nothing(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    assert result["failing"] == 0
    # the second is missing, nothing of it is left, and the first stays until there is a newer one
    assert result["kept_by_failing"] == [
        "last.ckpt",
        "rollout=00001-step=000002.ckpt",
        "rollout=00003-step=000006.ckpt",
    ]


def test_a_flipped_bit_in_any_file_is_found(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = ran
    path = shutil.copytree(out / "straight/checkpoints/rollout=00003-step=000006.ckpt", tmp_path / "a.ckpt")
    assert verify(path) == ""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    assert len(files) >= 4
    for file in files:
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 4
        file.write_bytes(whole)
        assert verify(path)
        whole[len(whole) // 2] ^= 4
        file.write_bytes(whole)
    assert verify(path) == ""


def test_the_index_of_real_shards_is_read_and_another_is_not(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = ran
    index = out / "straight/checkpoints/rollout=00003-step=000006.ckpt" / INDEX
    if not index.exists():
        pytest.skip("DeepSpeed has none")
    check_index(index)
    evil = index.read_bytes()[:-1] + pickle.dumps(Payload(tmp_path / "ran"))
    (tmp_path / INDEX).write_bytes(evil)
    with pytest.raises(UserError, match=r"posix.mkdir"):
        check_index(tmp_path / INDEX)
    assert not (tmp_path / "ran").exists()
