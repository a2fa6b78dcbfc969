"""Measure the machine's limits: rate of matrix products, rate of copies, cost of one small call.

python benchmarks/ceilings.py --json ceilings.json
python benchmarks/ceilings.py --device cuda

Products are those of training, of a decoding step and of the head. On a CPU, it uses one thread and CPU-seconds; on a
GPU, seconds between synchronizations. The fastest of several runs counts.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine, write_json

# rows, inner size, columns: large, training, decoding step, head's logits, head's weight gradient
PRODUCTS = {
    "cpu": [(1024, 1024, 1024), (4096, 256, 1024), (64, 256, 1024), (256, 256, 151_936), (151_936, 256, 256)],
    "cuda": [(8192, 8192, 8192), (16384, 4096, 12288), (64, 4096, 12288), (512, 4096, 151_936), (151_936, 512, 4096)],
}
COPY_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}
CALLS = 2000


def quickest(work: Callable[[], Any], device: str, runs: int = 5) -> float:
    """Time a piece of work.

    Args:
        work: the work to time.
        device: ``cpu`` or ``cuda``.
        runs: measured runs after a warm-up run.

    Returns:
        Seconds of the fastest run.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(runs + 1):
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return min(seconds[1:])


def product_rate(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> float:
    """Measure the rate of a matrix product.

    Args:
        shape: rows, inner size and columns.
        device: device to run on.
        dtype: dtype of the factors.

    Returns:
        Operations per second, in units of 1e9.
    """
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner, device=device, dtype=dtype), torch.randn(inner, columns, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    operations = 2.0 * rows * inner * columns
    # Enough of them to make one clock reading negligible.
    repeats = max(1, int((1e12 if device == "cuda" else 1e9) / operations))

    def work() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    return repeats * operations / quickest(work, device) / 1e9


def copy_rate(device: str) -> float:
    """Measure the rate of a large copy.

    Args:
        device: device to run on.

    Returns:
        Bytes per second, each read once and written once.
    """
    source = torch.randn(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES[device] / quickest(lambda: target.copy_(source), device)


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for shape in PRODUCTS[device]:
            name = f"{str(dtype).removeprefix('torch.')} product {' x '.join(map(str, shape))}, GFLOP/s"
            figures[name] = product_rate(shape, device, dtype)
    figures["copy, GB/s"] = copy_rate(device) / 1e9
    small = torch.zeros(1, device=device)
    figures["one call, µs"] = quickest(lambda: [small.add_(1) for _ in range(CALLS)], device) / CALLS * 1e6
    print("| ceiling | |\n|---|---|")
    for name, value in (machine() | figures).items():
        print(f"| {name} | {value if isinstance(value, str) else format(value, '.4g')} |")
    write_json(arguments.json, {"machine": machine(), "figures": figures})


if __name__ == "__main__":
    main()
