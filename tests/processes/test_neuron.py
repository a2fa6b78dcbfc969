"""The accelerator ``neuron``: its path on the processor and gloo, and what it says where Trainium is not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.ddp_run import NeuronOnCPU
from test_distributed import run

from lit_g2rpo.errors import UserError
from lit_g2rpo.strategies import NeuronAccelerator, NeuronDDPStrategy

ROOT = Path(__file__).parents[2]


def test_two_processes_on_its_path_learn_what_one_learns_on_the_stock_one(random_folder: str, tmp_path: Path) -> None:
    steps, one = run(random_folder, tmp_path / "one", 1, "mini")
    other, two = run(random_folder, tmp_path / "two", 2, "mini", "neuron")
    assert len(steps) == len(other) > 1
    for a, b in zip(steps, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
        assert a["tokens"] == b["tokens"]
    scale = max(g.abs().max() for g in one["gradients"][0].values())
    assert scale > 1e-3
    for name, gradient in one["gradients"][0].items():
        assert (gradient - two["gradients"][0][name]).abs().max() < 1e-4 * scale, name


def test_one_process_runs_on_its_path_in_mixed_precision_and_fixed_shapes(random_folder: str, tmp_path: Path) -> None:
    program = (
        "import sys; from helpers.build import data, module, trainer\n"
        "from helpers.ddp_run import NeuronOnCPU, NeuronDDPStrategy\n"
        "fit = trainer(sys.argv[1], steps=1, accelerator=NeuronOnCPU(), precision='bf16-mixed',\n"
        "    strategy=NeuronDDPStrategy(process_group_backend='gloo'))\n"
        "fit.fit(module(sys.argv[2], shapes='static'), data())\n"
        "print(fit.global_step, fit.strategy.process_group_backend, fit.precision_plugin.device)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), random_folder],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.stdout.split()[-3:] == ["1", "gloo", "cpu"], result.stderr[-3000:]


def test_without_its_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "lit_g2rpo", "fit", "--config", str(ROOT / "configs/g2rpo.yaml"),
        "--trainer", str(ROOT / "configs/strategy/neuron.yaml"),
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert "trainer.accelerator neuron needs torch_neuronx" in line
    assert "torch-neuronx==2.13.3.0.*" in line
    assert "pip.repos.neuron.amazonaws.com" in line
    assert not list(tmp_path.iterdir())


def test_a_strategy_that_puts_it_on_the_processor_is_refused(random_folder: str, tmp_path: Path) -> None:
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


def test_its_devices_and_arithmetic_are_its_own_where_torch_knows_the_device() -> None:
    """In a process of its own, since torch takes one further name for a device."""
    program = """
import torch
torch.utils.rename_privateuse1_backend("neuron")
import lightning.pytorch as pl
from lit_g2rpo.strategies import NeuronAccelerator, NeuronDDPStrategy
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
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "['neuron:0', 'neuron:1'] None neuron neuron", result.stderr[-2000:]


def test_it_is_registered_by_name() -> None:
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    assert AcceleratorRegistry["neuron"]["accelerator"] is NeuronAccelerator
    assert isinstance(StrategyRegistry.get("g2rpo_neuron"), NeuronDDPStrategy)
    assert StrategyRegistry["g2rpo_neuron"]["init_params"]["process_group_backend"] == "neuron"
    assert NeuronOnCPU.get_parallel_devices(2) == [torch.device("cpu", 0), torch.device("cpu", 1)]
