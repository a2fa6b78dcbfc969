"""Checkpoints on disk: whole or not there, held to their checksums, and never run."""

import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.payload import Payload
from helpers.toy import ToyModule, fit
from torch.distributed.checkpoint import load, save

from lit_g2rpo.__main__ import main
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.cli.checkpoints import find_checkpoint
from lit_g2rpo.errors import UserError
from lit_g2rpo.strategies.deepspeed_checkpoint import FILES, read_shards
from lit_g2rpo.strategies.fsdp import INDEX, check_index
from lit_g2rpo.training import checkpoint_files
from lit_g2rpo.training.checkpoint_files import CHECKSUMS, discard, part_of, point, read, seal, tensors_only, verify


def written(path: Path, value: Any = None) -> Path:
    torch.save(value or {"weights": torch.arange(1000.0), "rollout": 3}, part_of(path))
    seal(path)
    return path


def sharded(path: Path) -> Path:
    (part_of(path) / "inner").mkdir(parents=True)
    for name in ("a.pt", "inner/b.pt"):
        torch.save({"weights": torch.arange(100.0)}, part_of(path) / name)
    (part_of(path) / "latest").write_text("checkpoint")
    seal(path)
    return path


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_of_a_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    assert verify(path) == ""
    chance, found = random.Random(0), 0
    for place in (*range(0, 400, 7), *(chance.randrange(len(whole)) for _ in range(200)), *range(-300, 0, 7)):
        path.write_bytes(whole)
        flip(path, place, chance.randrange(8))
        if verify(path):
            found += 1
        else:
            assert torch.equal(read(path)["weights"], torch.arange(1000.0))
            assert read(path)["rollout"] == 3
    assert found > 200


def test_a_flipped_bit_of_any_tensor_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path) as archive:
        [entry] = [entry for entry in archive.infolist() if entry.file_size == 4000]
    flip(path, path.read_bytes().index(torch.arange(1000.0).numpy().tobytes()) + 1234, 5)
    # which torch reads without a word
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(1000.0))
    assert verify(path) == f"the checksum of {entry.filename} in it is wrong"


def test_a_flipped_bit_of_the_directory_in_a_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", {"weights": torch.arange(10.0)})
    whole = path.read_bytes()
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        for bit in range(8):
            flip(path, place, bit)
            if not verify(path):
                for mmap in (False, True):
                    assert torch.equal(read(path, mmap)["weights"], torch.arange(10.0)), (place, bit)
            path.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + b"\0" * 18, pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^--ckpt_path .*a.ckpt is not an intact checkpoint: [^\n]+$"):
        find_checkpoint(str(path), tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_one_line(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match="not an intact checkpoint"):
        find_checkpoint(str(path), tmp_path)


@pytest.mark.parametrize("instead", ["empty", "others", "list", "null", "pipe"])
def test_what_took_the_place_of_the_newest_is_passed_over(tmp_path: Path, instead: str) -> None:
    before = written(tmp_path / "rollout=00001-step=000002.ckpt")
    newest = tmp_path / "last.ckpt"
    if instead == "pipe":
        os.mkfifo(newest)
    else:
        newest.mkdir()
    if instead == "others":
        (newest / "notes.txt").write_text("mine")
    if instead in ("list", "null"):
        (newest / CHECKSUMS).write_text({"list": "[[]]", "null": "null"}[instead])
    os.utime(before, (0, 0))
    with pytest.warns(UserWarning, match=r"last\.ckpt is not intact: [^\n]+; trying the previous one"):
        assert find_checkpoint("last", tmp_path, tmp_path) == before


def test_a_folder_is_held_to_all_of_its_files(tmp_path: Path) -> None:
    def spoilt(how: str) -> str:
        shutil.rmtree(tmp_path / "a.ckpt", ignore_errors=True)
        path = sharded(tmp_path / "a.ckpt")
        assert verify(path) == ""
        if how == "flipped":
            flip(path / "inner/b.pt", -500)
        elif how == "text":
            flip(path / "latest", 2)
        elif how == "missing":
            (path / "a.pt").unlink()
        elif how == "added":
            (path / "c.pt").write_text("")
        elif how == "cut":
            os.truncate(path / "a.pt", 100)
        else:
            flip(path / CHECKSUMS, 5, 7)
        return verify(path)

    assert spoilt("flipped") == "the checksum of inner/b.pt in it is wrong"
    assert spoilt("text") == "the checksum of latest in it is wrong"
    assert spoilt("missing") == "a.pt is missing"
    assert spoilt("added") == "the checksum of c.pt in it is wrong"
    assert spoilt("cut") == "the checksum of a.pt in it is wrong"
    assert CHECKSUMS in spoilt("checksums")


def test_a_checkpoint_takes_the_place_of_another(tmp_path: Path) -> None:
    for make in (written, sharded, sharded, written):
        if make is written and (tmp_path / "a.ckpt").is_dir():
            discard(tmp_path / "a.ckpt")
        assert verify(make(tmp_path / "a.ckpt")) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_link_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, replace, seen = tmp_path / "last.ckpt", os.replace, []
    for name in ("a.ckpt", "b.ckpt"):
        written(tmp_path / name)

    def watched(source: Path, target: Path) -> None:
        seen.append(link.exists() and link.resolve().name)
        replace(source, target)

    monkeypatch.setattr(checkpoint_files.os, "replace", watched)
    point(link, tmp_path / "a.ckpt")
    point(link, tmp_path / "b.ckpt")
    assert link.resolve().name == "b.ckpt"
    assert seen == [False, "a.ckpt"]
    monkeypatch.setattr(checkpoint_files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        point(link, tmp_path / "a.ckpt")
    assert link.resolve().name == "b.ckpt"


@pytest.mark.parametrize("make", [written, sharded])
def test_without_links_last_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    for name in ("a.ckpt", "b.ckpt"):
        point(tmp_path / "last.ckpt", make(tmp_path / name))
    assert not (tmp_path / "last.ckpt").is_symlink()
    assert verify(tmp_path / "last.ckpt") == ""


class TestLast:
    """What ``last`` finds in a run of four checkpoints."""

    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Path:
        keeper = RolloutCheckpoint(every_rollouts=1, keep_last=3)
        fit(ToyModule(validation=lambda rollout: rollout / 10), tmp_path, [keeper], rollouts=4)
        return tmp_path / "toy/version_0/checkpoints"

    def test_the_one_before_a_broken_one(self, checkpoints: Path, tmp_path: Path) -> None:
        assert find_checkpoint("last", tmp_path) == checkpoints / "last.ckpt"
        flip(checkpoints / "last.ckpt", 3000, 3)
        with pytest.warns(
            UserWarning, match=r"rollout=00004-step=000008.ckpt is not intact: .*; trying the previous one"
        ):
            assert find_checkpoint("last", tmp_path).name == "rollout=00003-step=000006.ckpt"

    def test_one_without_a_link(self, checkpoints: Path, tmp_path: Path) -> None:
        (checkpoints / "last.ckpt").unlink()
        assert find_checkpoint("last", tmp_path).name == "rollout=00004-step=000008.ckpt"

    def test_one_whose_link_leads_nowhere(self, checkpoints: Path, tmp_path: Path) -> None:
        (checkpoints / "last.ckpt").resolve().unlink()
        assert find_checkpoint("last", tmp_path).name == "rollout=00003-step=000006.ckpt"

    def test_none_is_whole(self, checkpoints: Path, tmp_path: Path) -> None:
        for path in checkpoints.glob("rollout=*"):
            path.write_bytes(b"")
        with pytest.warns(UserWarning, match="not intact"), pytest.raises(UserError, match=r"of 3 .* none is intact"):
            find_checkpoint("last", tmp_path)

    def test_a_broken_best_one(self, checkpoints: Path, tmp_path: Path) -> None:
        [best] = checkpoints.glob("best*")
        flip(best, 3000, 3)
        with pytest.warns(UserWarning, match="not intact"), pytest.raises(UserError, match=r"of 1 .* none is intact"):
            find_checkpoint("best", tmp_path)


class TestCode:
    """A pickle that would run code is refused wherever one is read."""

    @pytest.fixture
    def payload(self, tmp_path: Path) -> Payload:
        return Payload(tmp_path / "ran")

    @pytest.fixture(autouse=True)
    def nothing_runs(self, tmp_path: Path) -> Any:
        yield
        assert not (tmp_path / "ran").exists()

    def test_in_a_file(self, tmp_path: Path, payload: Payload) -> None:
        torch.save({"g2rpo": {}, "callbacks": payload}, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match=r"a.ckpt holds more than tensors.*mkdir.*run any code"):
            read(tmp_path / "a.ckpt")
        with pytest.raises(UserError, match="not an intact checkpoint"):
            find_checkpoint(str(tmp_path / "a.ckpt"), tmp_path)

    def test_in_a_resumed_file(self, tmp_path: Path, payload: Payload) -> None:
        fit(ToyModule(), tmp_path, [RolloutCheckpoint()], rollouts=1)
        checkpoint = torch.load(tmp_path / "toy/version_0/checkpoints/last.ckpt", weights_only=True)
        torch.save(checkpoint | {"toy": payload}, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match="holds more than tensors"):
            fit(ToyModule(), tmp_path, [RolloutCheckpoint()], rollouts=2, checkpoint=str(tmp_path / "a.ckpt"))

    @pytest.mark.parametrize("place", ["model", "optim"])
    def test_in_a_folder_of_deepspeed(
        self, tmp_path: Path, payload: Payload, place: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("deepspeed")
        files = tmp_path / "a.ckpt" / FILES
        files.mkdir(parents=True)
        contents: dict[str, dict[str, Any]] = {
            "model": {"dp_world_size": 1, "param_shapes": [], "ds_config": {"zero_optimization": {"stage": 2}}},
            "optim": {"optimizer_state_dict": {"zero_stage": 2, "partition_count": 1}},
        }
        contents[place]["evil"] = payload
        torch.save(contents["model"], files / "mp_rank_00_model_states.pt")
        torch.save(contents["optim"], files / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        with pytest.raises(UserError, match="holds more than tensors"):
            read_shards(tmp_path / "a.ckpt")
        recipe = Path(__file__).parents[2] / "configs/g2rpo.yaml"
        words = ["export", "--config", str(recipe), "--ckpt_path", str(tmp_path / "a.ckpt"), "--output", "out"]
        with pytest.warns(UserWarning, match="holds no checksums.json"):
            assert main(words) == 2
        assert "holds more than tensors" in capsys.readouterr().err

    def test_in_an_index_of_shards(self, tmp_path: Path, payload: Payload) -> None:
        save({"weights": torch.arange(3), "lr": 0.1}, checkpoint_id=tmp_path / "whole", no_dist=True)
        check_index(tmp_path / "whole" / INDEX)
        with (tmp_path / INDEX).open("wb") as file:
            pickle.dump({"storage": payload}, file)
        with pytest.raises(UserError, match=r"has more than tensor locations \(posix.mkdir\)"):
            check_index(tmp_path / INDEX)

    def test_in_shards(self, tmp_path: Path, payload: Payload) -> None:
        save({"lr": payload}, checkpoint_id=tmp_path / "evil", no_dist=True)
        # torch wraps what goes wrong on a rank
        with pytest.raises(BaseException, match=r"weights_only|Unsupported|mkdir"), tensors_only(tmp_path):
            load({"lr": 0.1}, checkpoint_id=tmp_path / "evil", no_dist=True)
