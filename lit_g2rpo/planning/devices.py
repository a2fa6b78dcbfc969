"""Rates of devices: those of known ones as their makers state them, those of a CPU as measured here."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lit_g2rpo.errors import UserError


@dataclass(slots=True, frozen=True)
class Device:
    """Rates and size of a device.

    Args:
        name: name of the device.
        gib: memory, GiB.
        bandwidth: bytes per second to and from its memory.
        flops: dense operations per second of matrix products, in bfloat16 on a GPU and float32 on a CPU.
        link: bytes per second to the other devices of its machine, in one direction.
        call: seconds to start one kernel, in a CUDA graph on a GPU.
        measured: True if the rates were measured, False if they are the maker's.
    """

    name: str
    gib: float
    bandwidth: float
    flops: float
    link: float
    call: float = 2.5e-6
    measured: bool = False


DEVICES = {
    "A100": Device("A100 80 GB", 80, 2.04e12, 312e12, 300e9),
    "H100": Device("H100 SXM 80 GB", 80, 3.35e12, 989e12, 450e9),
    "H200": Device("H200 SXM 141 GB", 139, 4.8e12, 989e12, 450e9),
    "B200": Device("B200 180 GB", 178, 7.7e12, 2250e12, 900e9),
    "L40S": Device("L40S 48 GB", 44, 0.864e12, 362e12, 32e9),
    "L4": Device("L4 24 GB", 22, 0.3e12, 121e12, 32e9),
    "RTX4090": Device("RTX 4090 24 GB", 23, 1.01e12, 165e12, 32e9),
}
"""By the name to ask for; rates from the makers' data sheets, dense, bfloat16; links NVLink, or PCIe 4 x16."""


def named_device(name: str) -> Device:
    """Find a device by name, whatever its case and spaces.

    Raises:
        UserError: if its rates are unknown.
    """
    found = DEVICES.get(name.upper().replace(" ", "").replace("-", ""))
    if found is None:
        raise UserError(f"--device is {name}, whose rates are unknown; known: {', '.join(DEVICES)}")
    return found


def device_here() -> Device | None:
    """Find the rates of this machine's GPU; None if they are unknown or there is none."""
    if not torch.cuda.is_available():
        return None
    words = re.split(r"[\s-]+", torch.cuda.get_device_name(0).upper().replace("RTX ", "RTX"))
    return next((device for name, device in DEVICES.items() if name in words), None)


def measured_cpu(gib: float) -> Device:
    """Measure one thread of this machine's CPU, in about a second.

    Args:
        gib: memory of the machine, GiB.
    """
    size, copied = 768, torch.zeros(2**25)
    a, small = torch.ones(size, size), torch.ones(8)
    calls = 1000

    def many() -> None:
        for _ in range(calls):
            small.add_(1)

    bandwidth = 2 * copied.nbytes / _fastest(copied.clone)
    return Device(
        "this CPU, one thread",
        gib,
        bandwidth,
        2 * size**3 / _fastest(lambda: a @ a),
        bandwidth,
        _fastest(many) / calls,
        measured=True,
    )


def _fastest(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(4):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    # the first run also warms up
    return max(min(seconds[1:]), 1e-9)
