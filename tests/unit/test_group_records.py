"""Files of finished groups, and the digests that tie them to a state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import HANG_SECONDS
from helpers.prompts import make_prompt
from torch import nn

import lit_g2rpo.training.group_records
from lit_g2rpo.experience import Completion
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.digest import prompt_digest, weights_digest
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.running.scorer import Scored
from lit_g2rpo.training.group_records import GroupRecords, failed, group_record, read_group, read_scores, scores_record

STATE = {"weights": "a", "temperature": 0.7, "engine_options": {"x": (1, 2)}}


def group(seed: int, dtype: torch.dtype = torch.float32) -> list[Completion]:
    torch.manual_seed(seed)
    sizes = [3, 1, 8]
    return [
        Completion(torch.randint(0, 2**40, (n,)), torch.randn(n).to(dtype), torch.rand(n).to(dtype), f"{n}", n == 8)
        for n in sizes
    ]


def scores(**changes: Any) -> list[Scored]:
    result = RewardResult(1 / 3, float("inf"), 0.1 + 0.2, 0.0, {"a": 1e-17}, None, 0.5)
    return [Scored(replace(result, **changes), None), Scored(result, "judge")]


def write(folder: Path, rank: int, names: str, rollout: int = 5, state: Any = STATE, rewards: str = "r") -> None:
    records = GroupRecords(folder, rank)
    records.begin(rollout, state, rewards)
    for name in names:
        records.add(lambda name=name: group_record((0, name), f"inputs of {name}", group(ord(name))))
        records.add(lambda name=name: scores_record((0, name), scores()))
    records.close()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        written = group(1, dtype)
        back = read_group(group_record((2, "p"), "i", written), lambda ids: f"{len(ids)}")
        for a, b in zip(written, back, strict=True):
            assert (a.text, a.truncated) == (b.text, b.truncated)
            assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("token_ids", "logprobs", "entropy"))
            assert a.logprobs.dtype == b.logprobs.dtype
    write(tmp_path, 0, "xy")
    records = GroupRecords(tmp_path, 0)
    assert records.begin(5, STATE, "r") == []
    assert [*records.found.groups] == [*records.found.scores] == [(0, "x"), (0, "y")]
    assert read_scores(records.found.scores[0, "x"]) == scores()
    assert records.found.broken == 0


def test_all_ranks_files_are_read_and_only_the_own_one_is_written(tmp_path: Path) -> None:
    write(tmp_path, 0, "ac")
    write(tmp_path, 1, "bd")
    # a resumed run has one rank, and is ended as well
    records = GroupRecords(tmp_path, 0)
    records.begin(5, STATE, "r")
    assert {name for _, name in records.found.groups} == set("abcd")
    records.add(lambda: group_record((0, "e"), "", group(1)))
    records.close()
    again = GroupRecords(tmp_path, 2)
    again.begin(5, STATE, "r")
    assert {name for _, name in again.found.groups} == set("abcde")
    # as a process leaves it that is killed while it begins a file
    (tmp_path / ".rollout=00005-rank1.jsonl-k2x_9abc").mkdir()
    (tmp_path / ".rollout=00005-rank1.jsonl-k2x_9abc" / "rollout=00005-rank1.jsonl").touch()
    again.covered(4)
    assert len(list(tmp_path.iterdir())) == 3
    again.covered(5)
    assert [path.name for path in tmp_path.iterdir()] == [".rollout=00005-rank1.jsonl-k2x_9abc"]
    again.covered(6)
    assert list(tmp_path.iterdir()) == []
    again.close()


def test_every_cut_of_a_file_leaves_whole_lines(tmp_path: Path) -> None:
    write(tmp_path, 0, "xyz")
    path = tmp_path / "rollout=00005-rank0.jsonl"
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        records = GroupRecords(tmp_path, 0)
        records.begin(5, STATE, "r")
        lines = whole[:size].count(b"\n")
        assert len(records.found.groups) == max(lines, 0) // 2
        assert len(records.found.scores) == max(lines - 1, 0) // 2
        records.add(lambda: group_record((0, "w"), "", group(1)))
        records.close()
        again = GroupRecords(tmp_path, 0)
        again.begin(5, STATE, "r")
        assert (0, "w") in again.found.groups
        assert again.found.broken == 0
        again.close()


@pytest.mark.parametrize("name", STATE)
def test_groups_of_another_state_are_not_found(tmp_path: Path, name: str) -> None:
    write(tmp_path, 0, "x")
    write(tmp_path, 1, "y", state=STATE | {name: 3})
    records = GroupRecords(tmp_path, 0)
    (other,) = records.begin(5, STATE, "r")
    assert ([*records.found.groups], [*other.groups]) == ([(0, "x")], [(0, "y")])
    records.close()


def test_scores_of_other_rewards_are_not_found(tmp_path: Path) -> None:
    write(tmp_path, 0, "x")
    records = GroupRecords(tmp_path, 0)
    assert records.begin(5, STATE, "mended") == []
    assert ([*records.found.groups], [*records.found.scores]) == ([(0, "x")], [])
    records.close()


def test_a_reward_that_failed_is_asked_again() -> None:
    good = scores()[0].result
    assert failed(Scored(good, "judge", {"error": "timeout"}))
    assert failed(Scored(replace(good, error="timeout"), "judge"))
    assert not failed(Scored(good, "judge"))
    assert not failed(Scored(replace(good, error="no_answer")))


def test_a_disk_that_fails_ends_no_training(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    records = GroupRecords(blocked / "partial", 0)
    records.begin(5, STATE, "r")
    records.add(lambda: group_record((0, "x"), "", group(1)))
    with pytest.warns(UserWarning, match=r"groups of this rollout cannot be kept in .*/partial \(Not a dir"):
        records.close()


def test_a_rollout_of_a_moment_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lit_g2rpo.training.group_records, "DELAY", HANG_SECONDS)
    write(tmp_path, 0, "x")
    records = GroupRecords(tmp_path, 0)
    for rollout in (6, 7):
        records.begin(rollout, STATE, "r")
        records.add(lambda: group_record((0, "y"), "", group(1)))
    # the end of training, or an error, leaves no time to wait
    records.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rollout=00005-rank0.jsonl",
        "rollout=00007-rank0.jsonl",
    ]


def test_an_error_that_is_not_the_disks_is_raised(tmp_path: Path) -> None:
    records = GroupRecords(tmp_path, 0)
    records.begin(5, STATE, "r")
    records.add(lambda: {"x": 1 / 0})
    with pytest.raises(ZeroDivisionError):
        records.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_bit_of_the_weights_counts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)).to(dtype)
    seen = {weights_digest(model)}
    assert weights_digest(model) in seen
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for place in (0, 17, 20):
        for bit in range(8 * dtype.itemsize - 1):
            bits = model[2].weight.data.view(kind).view(-1)
            before = bits[place].clone()
            bits[place] ^= 1 << bit
            digest = weights_digest(model)
            assert digest not in seen
            seen.add(digest)
            bits[place] = before
    with torch.no_grad():
        # the same numbers in another order
        model[2].weight[[0, 1]] = model[2].weight[[1, 0]]
    assert weights_digest(model) not in seen
    model[1].running_mean += 1
    assert weights_digest(model) not in seen


def test_words_and_pixels_of_a_prompt_count(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder))
    prompt = make_prompt("one", 1, 3)
    seen = {prompt_digest(policy.encode(prompt))}
    assert prompt_digest(policy.encode(make_prompt("other", 1, 3))) in seen
    other = make_prompt("one", 1, 3)
    other.images[0].putpixel((3, 3), (1, 2, 3))
    for changed in (other, make_prompt("one", 1, 4), make_prompt("one", 2, 3), make_prompt("one", 0, 3)):
        digest = prompt_digest(policy.encode(changed))
        assert digest not in seen
        seen.add(digest)


def test_what_still_waits_does_not_outlive_the_checkpoint(tmp_path: Path) -> None:
    records = GroupRecords(tmp_path, 0)
    records.begin(1, {}, "")
    records.add(lambda: {"wave": 0, "prompt": "a"})
    records.drop()
    records.covered(1)
    records.close()
    assert not list(tmp_path.iterdir())
