"""The gradient of each task on two ranks."""

import json

import pytest
from helpers.paths import HELPERS
from helpers.task_gradients_run import train


@pytest.mark.usefixtures("varied_rewards")
def test_two_ranks_measure_what_one_measures(random_folder, tmp_path, commands):
    """Each of two ranks has rows of some tasks only, and joins the others with an empty micro-batch."""
    train(random_folder, tmp_path / "one")
    one = json.loads((tmp_path / "one" / "0.json").read_text())
    commands.python(HELPERS / "task_gradients_run.py", random_folder, tmp_path / "two")
    two = [json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert two[0] == two[1]
    assert one.keys() == two[0].keys()
    assert len(one) > 2
    for name, (norm, tokens) in one.items():
        assert two[0][name] == [pytest.approx(norm, rel=1e-3), tokens]
