"""Strategies and checkpoints that cannot work together are refused in one line."""

from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

import lit_g2rpo.strategies.deepspeed
from lit_g2rpo.cli.verbs.export import read_weights
from lit_g2rpo.errors import UserError
from lit_g2rpo.strategies import G2RPODeepSpeedStrategy, check_deepspeed


def test_lightnings_own_deepspeed_is_refused() -> None:
    with pytest.raises(UserError, match=r"take configs/strategy/deepspeed_zero1\.yaml"):
        check_deepspeed(DeepSpeedStrategy(stage=2), None)
    check_deepspeed(G2RPODeepSpeedStrategy(stage=2), None)


def test_what_deepspeed_wrote_is_refused_by_other_strategies(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(UserError, match="was written by DeepSpeed; take its strategy fragment, or export it"):
        check_deepspeed(DDPStrategy(), str(tmp_path))
    check_deepspeed(G2RPODeepSpeedStrategy(stage=2), str(tmp_path))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lit_g2rpo.strategies.deepspeed, "RequirementCache", lambda name: False)
    with pytest.raises(UserError, match=r'pip install "lit_g2rpo\[deepspeed\]"'):
        G2RPODeepSpeedStrategy(stage=1)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkpoint of DeepSpeed"):
        read_weights(tmp_path)


def test_gradients_are_added_up_in_float32() -> None:
    strategy = G2RPODeepSpeedStrategy(stage=2, reduce_bucket_size=1000)
    assert strategy.config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert strategy.config["zero_optimization"]["reduce_bucket_size"] == 1000
