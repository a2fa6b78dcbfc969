"""Measure the device's idle time in a training step, from a trace.

python benchmarks/gaps.py --device cuda --shape 2b --json gaps.json

It runs a step of only this project, without the synchronized clocks of the other benchmarks. A GPU is busy while any
kernel or copy runs, including kernels of replayed graphs; a CPU is busy while the training thread is in an operator.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import bench_prompts, machine, quiet, write_json
from torch.profiler import ProfilerActivity, profile
from train import SHAPES, save

STEPS = 3
"""Two warm-up steps and the traced one."""
GROUP, TEXT_TOKENS = 8, 32


def covered(spans: list[tuple[int, int]]) -> int:
    """Return the total length covered by spans.

    Args:
        spans: start and end of each.

    Returns:
        The length, in their unit.
    """
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny", help="of the policy")
    parser.add_argument("--lora", action="store_true", help="adapters instead of all weights")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the layers' activations")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--image-tokens", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a completion")
    parser.add_argument("--microbatches", type=int, default=8, help="passes per rollout")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    from ours import Ours, Work
    from turns import Phases

    device = arguments.device
    cuda = device == "cuda"
    prompts = bench_prompts(arguments.prompts, arguments.image_tokens, TEXT_TOKENS - 2)
    lengths = {prompt.id: [arguments.tokens] * GROUP for prompt in prompts}
    work = Work(GROUP, arguments.tokens, lora=arguments.lora)
    tracer = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
    done, seconds = 0, 0.0

    def pause() -> None:
        nonlocal done, seconds
        done += 1
        if cuda:
            torch.cuda.synchronize()
        if done == STEPS:
            seconds += time.perf_counter()
            tracer.stop()
        elif done == STEPS - 1:
            tracer.start()
            seconds -= time.perf_counter()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dtype = save(arguments.shape, folder, device)
        side = Ours(
            folder, prompts, lengths, work, STEPS, microbatches=arguments.microbatches, device=device, dtype=dtype,
            activation_checkpointing="full" if arguments.checkpointing else "off",
        )  # fmt: skip
        # Clocks that wait for the device would cause gaps.
        side.phases = Phases(False)
        side.run(pause)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events: Any = tracer.profiler.kineto_results.events()  # type: ignore[union-attr]
    # Annotations, such as the optimizer's around a whole step, are not work.
    work_done = [e for e in events if e.device_type() == kind and not e.is_user_annotation()]
    spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in work_done]
    busy = covered(spans) / 1e9
    idle = 1 - busy / seconds
    print("| | step, s | busy, s | idle | events |\n|---|---|---|---|---|")
    print(f"| {arguments.shape}, {device} | {seconds:.3f} | {busy:.3f} | {idle:.1%} | {len(spans)} |")
    write_json(
        arguments.json,
        {"machine": machine(), "seconds": seconds, "busy": busy, "idle": idle, "events": len(spans)},
    )


if __name__ == "__main__":
    main()
