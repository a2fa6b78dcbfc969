"""What ``plan`` prints: memory by item and phase, whether it fits, and seconds by phase."""

import sys

from rich.console import Console
from rich.table import Table

from lit_g2rpo.planning.devices import Device
from lit_g2rpo.planning.memory import PHASES, Item, totals
from lit_g2rpo.planning.simulation import MicrobatchSize, PassMemory
from lit_g2rpo.planning.times import Phase

GIB = 2**30
USABLE = 0.92
"""Share of a device's memory that a plan may use; the driver and fragmentation take the rest."""


def show(items: list[Item]) -> None:
    """Print the items that use memory on the device, GiB."""
    table = Table("GiB on each device", *PHASES, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for item in items:
        table.add_row(item.name, *(f"{value / GIB:.2f}" if value else "" for value in item.bytes))
    table.add_section()
    table.add_row("together", *(f"{value / GIB:.2f}" for value in totals(items)))
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def verdict(
    items: list[Item],
    a_pass: PassMemory,
    size: MicrobatchSize,
    smaller: PassMemory | None,
    half: MicrobatchSize,
    memory: float,
    advice: list[str],
) -> None:
    """Print whether it fits, the largest micro-batch that does, and what to change.

    Args:
        a_pass: the worst micro-batch.
        size: its content.
        smaller: a smaller one; None if there is none.
        half: content of the smaller one.
        memory: memory of the device, GiB.
        advice: how to make the run smaller.
    """
    room = USABLE * memory * GIB
    peaks = totals(items)
    worst = PHASES[peaks.index(max(peaks))]
    fits = max(peaks) <= room
    says = f"{max(peaks) / GIB:.1f} GiB in the {worst}, of {room / GIB:.1f} GiB that can be used"
    print(f"it {'fits' if fits else 'does not fit'}: {says} ({USABLE:.0%} of the device)")
    if smaller is not None:
        total = a_pass.kept + a_pass.working
        per_token = (total - smaller.kept - smaller.working) / (size.tokens - half.tokens)
        largest = size.tokens + (room - peaks[1]) / max(per_token, 1)
        if largest > 0:
            print(f"largest micro-batch that fits: about {int(largest):,} tokens, {per_token / 2**10:.0f} KiB a token")
        else:
            print("no micro-batch fits next to the weights, gradients and optimizer state")
    if not fits:
        print("to make it fit, what costs least first:")
        for line in advice:
            print(f"  {line}")


def show_times(found: list[Phase], device: Device, sampled: float, ahead: bool) -> None:
    """Print the seconds of a rollout's phases, and how many tokens are sampled in one of them.

    Args:
        sampled: tokens that an engine samples in a rollout.
        ahead: True if the next rollout is sampled while the policy learns.
    """
    source = "rates measured now" if device.measured else "rates of its data sheet, not measured"
    table = Table("seconds of a rollout, computed", "", "share", f"{device.name}, {source}")
    for column in table.columns[1:3]:
        column.justify = "right"
    seconds = {phase.name: phase.seconds for phase in found}
    total = sum(seconds.values())
    for phase in found:
        table.add_row(phase.name, _written(phase.seconds), f"{phase.seconds / total:.0%}", phase.how)
    table.add_section()
    sampling = seconds["reading prompts"] + seconds["decoding"]
    rate = f"{sampled / sampling:,.0f} tokens a second sampled by each engine"
    if ahead:
        total = max(sampling, total - sampling)
        rate += "; sampling and learning overlap"
    table.add_row("together", _written(total), "", rate)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
