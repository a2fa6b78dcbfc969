"""A run whose rewards cannot be had ends saved, and goes on as if nothing had been."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.errors import ScoringStopError
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.rewards.running.scorer import Scorer


def fit(folder: str, out: Path, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
    run = module(folder, G2RPO(filtering="refill", entropy_coefficient=0.02))
    keeper = RolloutCheckpoint(every_rollouts=50, monitor=None, dirpath=str(out))
    fitted = trainer(out, 6, callbacks=[keeper], enable_checkpointing=True)
    fitted.fit(run, data(), ckpt_path=checkpoint, weights_only=False)
    optimizer = fitted.optimizers[0].state_dict()["state"]
    return dict(run.policy.state_dict()) | {f"{i}/{k}": v for i, state in optimizer.items() for k, v in state.items()}


@pytest.mark.usefixtures("varied_rewards")
@pytest.mark.parametrize("wave", [0, 1])
def test_what_was_learned_is_saved_and_the_rollout_is_sampled_again(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wave: int
) -> None:
    if wave:
        monkeypatch.setattr("lit_g2rpo.training.table.kept_groups", kept_but_one)
    straight = fit(random_folder, tmp_path / "straight")
    counted = Scorer.count
    calls: list[int] = []

    def count(scorer: Scorer, scored: Any) -> Any:
        calls.append(len(scored))
        # whole rollouts have 48 completions, and waves of refills fewer
        if sum(size == 48 for size in calls) == 3 and (wave == 0 or len(scored) < 48):
            scorer._stop = ScoringStopError("the judge has been away")
        return counted(scorer, scored)

    with monkeypatch.context() as away, pytest.raises(ScoringStopError, match="away") as caught:  # noqa: PT012
        away.setattr(Scorer, "count", count)
        fit(random_folder, tmp_path / "away")
    assert "continues from the checkpoint of step 4" in caught.value.__notes__[0]
    assert (tmp_path / "away" / "last.ckpt").resolve().name == "rollout=00002-step=000004.ckpt"
    resumed = fit(random_folder, tmp_path / "away", tmp_path / "away" / "last.ckpt")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def kept_but_one(accuracy: torch.Tensor, rewards: torch.Tensor, group_ids: torch.Tensor, **_: Any) -> torch.Tensor:
    """Drop the first group, so that there is one to refill."""
    return group_ids != 0
