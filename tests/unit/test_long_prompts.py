"""A prompt that is too long is refused on every path that prompts come by, in one wording."""

from pathlib import Path
from typing import Any

import pytest
from helpers.build import data, module, trainer

from lit_g2rpo.data.lengths import LongPrompt
from lit_g2rpo.data.loader import RolloutLoader
from lit_g2rpo.objectives import GRPO

SIZES: dict[str, Any] = {"rollout": {"prompts": 12, "group_size": 2}, "update": {"microbatches": 4}}
SAYS = (
    r"row \S+: its prompt has \d+ tokens with its images and videos; data.max_prompt_tokens allows 20; allow more, "
    r"lower model.policy.max_pixels or data.video.total_pixels, or take the row out, as data.long_prompts: skip does "
    r"in training"
)


def test_in_training(random_folder: str, tmp_path: Path) -> None:
    with pytest.raises(LongPrompt, match=SAYS):
        trainer(tmp_path, 2).fit(module(random_folder, **SIZES), data(max_prompt_tokens=20))


def test_in_a_refill(random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random policy is always wrong, so every group is replaced."""
    seen = []

    def refill(loader: RolloutLoader, *given: Any) -> Any:
        loader.max_prompt_tokens = 20
        seen.append(given)
        return original(loader, *given)

    original = RolloutLoader.refill
    monkeypatch.setattr(RolloutLoader, "refill", refill)
    with pytest.raises(LongPrompt, match=SAYS):
        trainer(tmp_path, 2).fit(module(random_folder, GRPO(filtering="refill"), **SIZES), data())
    assert len(seen) == 1


@pytest.mark.parametrize("refills", [False, True])
def test_in_a_resumed_rollout(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refills: bool
) -> None:
    """The checkpoint lies in the middle of a rollout, whose prompts, and those of its refills, are opened again."""
    objective, path = GRPO(filtering="refill"), tmp_path / "half.ckpt"
    fit = trainer(tmp_path, 1)
    fit.fit(module(random_folder, objective, **SIZES), data())
    fit.save_checkpoint(path)
    again = data(max_prompt_tokens=16384 if refills else 20)
    original = RolloutLoader.refill_again

    def refill_again(loader: RolloutLoader, *given: Any) -> Any:
        loader.max_prompt_tokens = 20
        return original(loader, *given)

    if refills:
        monkeypatch.setattr(RolloutLoader, "refill_again", refill_again)
    with pytest.raises(LongPrompt, match=SAYS):
        trainer(tmp_path, 2).fit(module(random_folder, objective, **SIZES), again, ckpt_path=path)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_in_evaluation(random_folder: str, tmp_path: Path, verb: str) -> None:
    run = trainer(tmp_path, 1, limit_val_batches=None)
    for long_prompts in ("refuse", "skip"):
        with pytest.raises(LongPrompt, match=SAYS):
            getattr(run, verb)(
                module(random_folder, **SIZES),
                datamodule=data(max_prompt_tokens=20, test_per_task=2, long_prompts=long_prompts),
            )
