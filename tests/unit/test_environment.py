"""No test sees what another has done to the environment."""

import os

import pytest


@pytest.mark.parametrize("turn", [1, 2])
def test_the_next_test_finds_the_environment_as_it_was(turn: int) -> None:
    assert "LEFT" not in os.environ
    os.environ["LEFT"] = str(turn)
    assert os.environ.pop("OMP_NUM_THREADS") != "changed"
    os.environ["DS_ACCELERATOR"] += f" {turn}"
    assert os.environ["DS_ACCELERATOR"].count(" ") == 1
