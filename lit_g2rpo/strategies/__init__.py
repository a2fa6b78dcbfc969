"""Strategies and accelerators: importing this package registers their names and hooks."""

import lit_g2rpo.strategies.stock  # noqa: F401 (registers the hooks of Lightning's own strategies)
from lit_g2rpo.strategies.deepspeed import G2RPODeepSpeedStrategy, check_deepspeed
from lit_g2rpo.strategies.fsdp import FSDP2Strategy
from lit_g2rpo.strategies.neuron import NeuronAccelerator, NeuronDDPStrategy
from lit_g2rpo.strategies.ranks import end_ranks, leave_time_to_end
from lit_g2rpo.strategies.xla import XLADeviceAccelerator, XLAStrategy, check_xla_precision

__all__ = [
    "FSDP2Strategy",
    "G2RPODeepSpeedStrategy",
    "NeuronAccelerator",
    "NeuronDDPStrategy",
    "XLADeviceAccelerator",
    "XLAStrategy",
    "check_deepspeed",
    "check_xla_precision",
    "end_ranks",
    "leave_time_to_end",
]
