"""Trainium through its own torch device: the accelerator ``neuron`` under Lightning's stock strategies."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding, sharding
from lit_g2rpo.strategies.stock import replicated

INSTALL = (
    "pip install torch==2.13.0 'torch-neuronx==2.13.3.0.*' 'neuronx-cc==2.*' nki "
    "--extra-index-url https://pip.repos.neuron.amazonaws.com --extra-index-url https://download.pytorch.org/whl/cpu"
)


class NeuronAccelerator(Accelerator):
    """The cores of a Trainium machine as torch devices ``neuron:0``, ``neuron:1``, ...

    A subclass with another ``device_type`` and no ``package`` runs the same code on another torch device.

    Raises:
        UserError: if the package that provides the device is not installed.
    """

    device_type: ClassVar[str] = "neuron"
    package: ClassVar[str | None] = "torch_neuronx"

    def __init__(self) -> None:
        if self.package is not None and find_spec(self.package) is None:
            raise UserError(
                f"trainer.accelerator {self.name()} needs {self.package}, for Trn2 and Trn3: {INSTALL} "
                "(docs/hardware.md, Neuron; Trn1 takes configs/strategy/xla_trainium.yaml)"
            )

    @override
    def setup_device(self, device: torch.device) -> None:
        if device.type != self.device_type:
            # Lightning silently puts an accelerator it does not know on the CPU
            raise UserError(
                f"trainer.accelerator {self.name()} got the device {device}; name the strategy as well: "
                "configs/strategy/neuron.yaml"
            )
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index)

    @override
    def setup(self, trainer: Any) -> None:
        if isinstance(trainer.precision_plugin, MixedPrecision):
            # Lightning assumes CUDA's precision for every accelerator it does not know
            trainer.precision_plugin.device = self.device_type

    @override
    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @override
    def teardown(self) -> None: ...

    @staticmethod
    @override
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @classmethod
    @override
    def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
        return [torch.device(cls.device_type, i) for i in range(devices)]

    @classmethod
    @override
    def auto_device_count(cls) -> int:
        return torch.accelerator.device_count() if cls.is_available() else 0

    @classmethod
    @override
    def is_available(cls) -> bool:
        # torch itself loads the package, and with it the device
        current = torch.accelerator.current_accelerator(check_available=True)
        return current is not None and current.type == cls.device_type

    @classmethod
    @override
    def name(cls) -> str:
        return "neuron"


class NeuronDDPStrategy(DDPStrategy):
    """Lightning's DDP on non-CUDA devices, one process per core, even for a single core."""

    @override
    def determine_ddp_device_ids(self) -> None:
        # given a device, Lightning would open a CUDA stream for it
        ...


@sharding.register(NeuronDDPStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding:
    return replicated(ranks, arguments)


AcceleratorRegistry.register("neuron", NeuronAccelerator, description="Trainium by its own torch device", override=True)
StrategyRegistry.register(
    "g2rpo_neuron",
    NeuronDDPStrategy,
    description="a copy of the policy on every core of a Trainium machine",
    override=True,
    process_group_backend="neuron",
)
