"""The table at the start of a run says which parts of the policy learn."""

from pathlib import Path
from typing import Any

import pytest
from helpers.build import data, module, trainer

from lit_g2rpo.policy.config import LoraConfig


@pytest.mark.parametrize(
    ("policy", "learns"),
    [
        ({}, "vision, merger, language"),
        ({"freeze": ["vision"]}, "merger, language; vision frozen"),
        (
            {"freeze": ["vision"], "lora": LoraConfig(rank=2)},
            "adapters of rank 2 in language; all weights of the checkpoint are frozen",
        ),
        (
            {"lora": LoraConfig(rank=3, vision=True)},
            "adapters of rank 3 in vision, language; all weights of the checkpoint are frozen",
        ),
    ],
)
def test_the_parts_that_learn_are_named(
    policy: dict[str, Any], learns: str, random_folder: str, tmp_path: Path
) -> None:
    run, fit = module(random_folder, **policy), trainer(tmp_path, 1)
    found: list[dict[str, str]] = []
    run.on_train_start = lambda: found.append(run.describe())
    fit.fit(run, data(max_completion_tokens=2))
    assert found[0]["learns"] == learns
    for part in ("vision", "merger", "language"):
        moving = [p for name, p in run.policy.named_parameters() if run.policy.backbone.family.part_of(name) == part]
        named = part in learns.partition(";")[0]
        assert any(p.requires_grad for p in moving) == named
