"""A run that is killed between any two file operations of its saves goes on as if it had not been."""

import re

import pytest
from helpers.paths import HELPERS
from helpers.processes import Commands

KILL = re.compile(r"(\d+) (\w+) from (\S+) left (\[.*\])")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> str:
    return shared_commands.python(HELPERS / "killed_saves.py", tmp_path_factory.mktemp("killed"))


def test_every_resumed_run_ends_with_the_same_weights(said: str) -> None:
    [straight] = re.findall(r"straight (\w+)", said)
    kills = KILL.findall(said)
    assert [int(number) for number, *_ in kills] == list(range(1, len(kills) + 1))
    assert len(kills) > 20
    assert {digest for _, digest, *_ in kills} == {straight}


def test_no_kill_after_the_first_save_starts_anew(said: str) -> None:
    froms = [path for _, _, path, _ in KILL.findall(said)]
    first = next(number for number, path in enumerate(froms) if path != "None")
    assert first < 6
    # the newest checkpoint is never lost
    assert froms[first:] == sorted(froms[first:])


def test_no_part_is_left(said: str) -> None:
    assert {left for *_, left in KILL.findall(said)} == {"[]"}
