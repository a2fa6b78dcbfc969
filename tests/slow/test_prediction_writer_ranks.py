"""PredictionWriter on two ranks, killed on the way and to the end."""

import sys

from helpers.paths import HELPERS
from helpers.prediction_run import lines, names, rows


def test_two_ranks_write_one_file_and_continue_it(tmp_path, commands):
    file = tmp_path / "predictions.jsonl"

    def run(dies_at):
        return commands.run(sys.executable, HELPERS / "prediction_run.py", tmp_path, dies_at)

    # rank 1 has rows 1, 3 and 5, and gets an empty batch or a row of rank 0's number besides
    assert run(5).returncode != 0
    assert [row["index"] for row in lines(file)] == [0, 2, 1, 3]
    result = run(-1)
    assert result.returncode == 0, result.stderr
    assert "rank 0 made [4, 6]" in result.stdout
    assert "rank 1 made [5]" in result.stdout
    assert lines(file) == rows(range(7))
    assert names(tmp_path) == ["metrics.json", "predictions.jsonl"]
