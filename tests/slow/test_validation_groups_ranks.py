"""Validation groups on two ranks: those that one rank would write."""

import json

from helpers.paths import HELPERS
from helpers.validation_run import run


def test_two_ranks_write_the_groups_of_one(tmp_path, commands):
    run(tmp_path / "one", logger=False)
    # rank 1 has the rows 1, 3 and 5, and so all of task b
    commands.python(HELPERS / "validation_run.py", tmp_path / "two")

    def written(folder):
        files = sorted(folder.glob("rollouts/validation_*.jsonl"))
        return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}

    assert written(tmp_path / "two") == written(tmp_path / "one")
    assert [[group["id"] for group in groups] for groups in written(tmp_path / "two").values()] == [
        ["row-0", "row-1", "row-2", "row-3"]
    ] * 2
    images = [sorted(path.name for path in (tmp_path / name / "rollouts/images").iterdir()) for name in ("one", "two")]
    assert images[0] == images[1] != []
