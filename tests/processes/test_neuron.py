"""The accelerator ``neuron``: its path on the CPU and gloo, and what it says where Trainium is not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.ddp_run import NeuronOnCPU
from helpers.paths import CONFIGS
from helpers.processes import Commands

from lit_g2rpo.__main__ import main
from lit_g2rpo.errors import UserError
from lit_g2rpo.strategies import NeuronAccelerator, NeuronDDPStrategy

# the second part of it last, since torch takes one further name for a device
PROGRAM = """
import sys
import lightning.pytorch as pl
import torch
from helpers.build import data, module, trainer
from helpers.ddp_run import NeuronOnCPU
from lit_g2rpo.strategies import NeuronAccelerator, NeuronDDPStrategy

fit = trainer(sys.argv[1], steps=1, accelerator=NeuronOnCPU(), precision="bf16-mixed",
              strategy=NeuronDDPStrategy(process_group_backend="gloo"))
fit.fit(module(sys.argv[2], shapes="static"), data())
print(fit.global_step, fit.strategy.process_group_backend, fit.precision_plugin.device)

torch.utils.rename_privateuse1_backend("neuron")
class There(NeuronAccelerator):
    package = None
    @classmethod
    def is_available(cls): return True
accelerator = There()
strategy = NeuronDDPStrategy(process_group_backend="neuron")
fit = pl.Trainer(accelerator=accelerator, strategy=strategy, devices=2, precision="bf16-mixed", logger=False)
accelerator.setup(fit)
print([str(device) for device in strategy.parallel_devices], strategy.determine_ddp_device_ids(),
      fit.precision_plugin.device, strategy.process_group_backend)
"""


@pytest.fixture(scope="module")
def said(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> list[str]:
    """The lines of a process of its own."""
    return shared_commands.python("-c", PROGRAM, tmp_path_factory.mktemp("neuron"), random_folder).splitlines()


def test_one_process_runs_on_its_path_in_mixed_precision_and_fixed_shapes(said: list[str]) -> None:
    assert said[-2] == "1 gloo cpu"


def test_its_devices_and_arithmetic_are_its_own_where_torch_knows_the_device(said: list[str]) -> None:
    assert said[-1] == "['neuron:0', 'neuron:1'] None neuron neuron"


def test_without_its_package_one_line_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["--config", str(CONFIGS / "g2rpo.yaml"), "--trainer", str(CONFIGS / "strategy" / "neuron.yaml")]
    assert main(["fit", *recipe]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "trainer.accelerator neuron needs torch_neuronx" in line
    assert "torch-neuronx==2.13.3.0.*" in line
    assert "pip.repos.neuron.amazonaws.com" in line
    assert not list(tmp_path.iterdir())


def test_a_strategy_that_puts_it_on_the_cpu_is_refused(random_folder: str, tmp_path: Path) -> None:
    class Elsewhere(NeuronAccelerator):
        package = None

        @classmethod
        def is_available(cls) -> bool:
            return True

        @classmethod
        def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
            return [torch.device("cpu")]

    fit = trainer(tmp_path, steps=1, accelerator=Elsewhere(), strategy="auto")
    with pytest.raises(UserError, match="got the device cpu; name the strategy as well"):
        fit.fit(module(random_folder), data())


def test_it_is_registered_by_name() -> None:
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    assert AcceleratorRegistry["neuron"]["accelerator"] is NeuronAccelerator
    assert isinstance(StrategyRegistry.get("g2rpo_neuron"), NeuronDDPStrategy)
    assert StrategyRegistry["g2rpo_neuron"]["init_params"]["process_group_backend"] == "neuron"
    assert NeuronOnCPU.get_parallel_devices(2) == [torch.device("cpu", 0), torch.device("cpu", 1)]
