"""PyTorch/XLA: Trn1, and any other device with a PJRT plug-in; a single device, without sharding."""

from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry, XLAAccelerator
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import end_graph, register_graph_end


class XLADeviceAccelerator(XLAAccelerator):
    """PyTorch/XLA devices of any kind; Lightning's own accelerator queries TPU servers.

    Raises:
        UserError: if ``torch_xla`` is not installed.
    """

    def __init__(self) -> None:
        if find_spec("torch_xla") is None:
            raise UserError(
                "trainer.accelerator xla needs torch_xla 2.9 with torch 2.9, in an environment of its own: "
                "docs/hardware.md, XLA (Trn2 and Trn3 take configs/strategy/neuron.yaml)"
            )
        super().__init__()

    @staticmethod
    @override
    def parse_devices(devices: Any) -> int:
        if int(devices) != 1:
            raise UserError(f"trainer.devices is {devices}, but g2rpo_xla runs on one device: nothing is sharded there")
        return 1

    @staticmethod
    @override
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("xla", i) for i in range(devices)]

    @staticmethod
    @override
    def auto_device_count() -> int:  # type: ignore[override]  # Lightning's is cached
        return 1

    @staticmethod
    @override
    def is_available() -> bool:  # type: ignore[override]
        return find_spec("torch_xla") is not None

    @staticmethod
    @override
    def name() -> str:
        return "xla"


class XLAStrategy(SingleDeviceXLAStrategy):
    """One device that records operations and compiles them; the policy uses few fixed shapes there."""

    def __init__(self, **options: Any) -> None:
        import torch_xla

        register_graph_end("xla", torch_xla.sync)
        if not hasattr(torch, "xla"):
            # activation checkpointing looks up its device there
            torch._register_device_module("xla", torch_xla.core.xla_model)  # type: ignore[no-untyped-call]
        try:
            super().__init__(device=0, **options)
        except RuntimeError as error:
            raise UserError(f"trainer.strategy g2rpo_xla finds no device: {str(error).splitlines()[0]}") from error
        if torch_xla.runtime.device_type() == "CPU":
            rank_zero_warn("g2rpo_xla compiles for the CPU: PJRT_DEVICE is CPU, which is also what it is if not set")

    @override
    def post_backward(self, closure_loss: Tensor) -> None:
        # otherwise the first read of a gradient would compile and run the whole backward separately
        end_graph(self.root_device)


def check_xla_precision(strategy: Any, precision: Any) -> None:
    """Refuse mixed precision, which PyTorch/XLA does not support here, and 16 bits, which would also round the loss.

    Args:
        strategy: ``trainer.strategy`` as configured.
        precision: ``trainer.precision`` as configured.

    Raises:
        UserError: if the precision is not ``32-true``.
    """
    if strategy == "g2rpo_xla" and str(precision or "32-true") not in ("32-true", "32"):
        raise UserError(
            f"trainer.precision is {precision}, but g2rpo_xla only supports 32-true; weights keep the type "
            "given by model.policy.dtype"
        )


AcceleratorRegistry.register("xla", XLADeviceAccelerator, description="a device of PyTorch/XLA", override=True)
StrategyRegistry.register("g2rpo_xla", XLAStrategy, description="one device of PyTorch/XLA", override=True)
