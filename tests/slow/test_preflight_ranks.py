"""The pre-flight check on two ranks."""

from pathlib import Path

from helpers.paths import HELPERS
from helpers.processes import Commands


def test_two_ranks_stay_the_same_and_stop_together(tmp_path: Path, commands: Commands) -> None:
    said_by_all = commands.python(HELPERS / "preflight_run.py", tmp_path)
    assert said_by_all.count("pre-flight check, checkpoint: ") == 1
    said = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "rank 1: task ocr: its reward fails" in said[0]
    assert "no licence on this machine" in said[0]
