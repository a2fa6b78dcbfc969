"""Two ranks replace the groups that one process replaces."""

import json
from pathlib import Path

import pytest
from helpers.paths import HELPERS
from helpers.processes import Commands
from helpers.refill_run import coin_score, run

import lit_g2rpo.rewards.running.scorer


def test_ranks_draw_the_same(
    random_folder: str, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)
    _, alone = run(random_folder, tmp_path / "one", 4)
    commands.python(HELPERS / "refill_run.py", random_folder, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for one, *both in zip(alone.rollouts, *ranks, strict=True):
        parts = [rank["prompts"] for rank in both]
        assert [id for ids in zip(*parts, strict=True) for id in ids] == one["prompts"]
    assert ranks[0][0]["refills"] == ranks[1][0]["refills"] == alone.rollouts[0]["refills"]
