"""Strategies and checkpoints that cannot work together are refused in one line."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

import lit_g2rpo.strategies.deepspeed
from lit_g2rpo.cli.verbs.export import read_weights
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import forget_gradients, generation_context, keeps_masters, reads_folders, shard
from lit_g2rpo.strategies import FSDP2Strategy, G2RPODeepSpeedStrategy, check_deepspeed


def test_lightnings_own_deepspeed_is_refused() -> None:
    with pytest.raises(UserError, match=r"take configs/strategy/deepspeed_zero1\.yaml"):
        check_deepspeed(DeepSpeedStrategy(stage=2), CUDAAccelerator(), None)
    check_deepspeed(G2RPODeepSpeedStrategy(stage=2), CUDAAccelerator(), None)
    check_deepspeed(G2RPODeepSpeedStrategy(stage=2), CPUAccelerator(), None)
    with pytest.raises(UserError, match=r"GPUs and on the CPU here, but trainer\.accelerator is mps"):
        check_deepspeed(G2RPODeepSpeedStrategy(stage=2), object.__new__(MPSAccelerator), None)


def test_what_deepspeed_wrote_is_refused_by_other_strategies(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(UserError, match="was written by DeepSpeed; take its strategy fragment, or export it"):
        check_deepspeed(DDPStrategy(), CPUAccelerator(), str(tmp_path))
    check_deepspeed(G2RPODeepSpeedStrategy(stage=2), CUDAAccelerator(), str(tmp_path))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lit_g2rpo.strategies.deepspeed, "RequirementCache", lambda name: False)
    with pytest.raises(UserError, match=r'pip install "lit_g2rpo\[deepspeed\]"'):
        G2RPODeepSpeedStrategy(stage=1)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a DeepSpeed checkpoint"):
        read_weights(tmp_path)


def test_gradients_are_added_up_in_float32() -> None:
    strategy = G2RPODeepSpeedStrategy(stage=2, reduce_bucket_size=1000)
    assert strategy.config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert strategy.config["zero_optimization"]["reduce_bucket_size"] == 1000


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy(), DDPStrategy()], ids=["single", "ddp"])
def test_a_strategy_that_splits_nothing_needs_to_say_nothing(strategy: Strategy) -> None:
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(2)).sum().backward()
    with generation_context(strategy, layer):
        pass
    forget_gradients(strategy, layer)
    assert layer.weight.grad is None
    before = dict(layer.named_parameters())
    shard(strategy, layer)
    assert all(layer.get_parameter(name) is weight for name, weight in before.items())
    assert not keeps_masters(strategy)
    assert not reads_folders(strategy)


def test_strategies_say_what_they_keep_and_read() -> None:
    folders = [G2RPODeepSpeedStrategy(stage=2), FSDPStrategy(), ModelParallelStrategy(), FSDP2Strategy()]
    assert all(map(reads_folders, folders))
    assert [keeps_masters(strategy) for strategy in folders] == [True, False, False, False]


def test_a_policy_that_nobody_splits_is_not_trained_on_each_rank_alone() -> None:
    class Mesh:
        device_mesh = None

    with pytest.raises(UserError, match=r"Mesh has a device mesh, but .* import lit_g2rpo\.strategies, or register"):
        shard(Mesh(), torch.nn.Linear(2, 2))
