"""Measure how a training step scales with completion length, group size, images and prompts, with fitted slopes.

python benchmarks/scaling.py --json scaling.json
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TEXT_TOKENS = 32


def step(
    folder: Path,
    *,
    prompts: int,
    group_size: int,
    max_tokens: int,
    image_tokens: int = 64,
    images: int = 1,
    microbatches: int = 1,
    repeats: int = 3,
) -> dict[str, float]:
    """Measure one step of the real module: every completion has ``max_tokens`` tokens.

    Args:
        folder: the policy.
        prompts: prompts per rollout.
        group_size: completions per prompt.
        max_tokens: tokens of each completion.
        image_tokens: tokens of each image.
        images: images per prompt.
        microbatches: forward and backward passes per step.
        repeats: measured steps, after one that is discarded.

    Returns:
        Medians of ``seconds`` of the step, ``rollout`` and ``train`` (forward and backward), CPU-seconds, and the
        prompt length in tokens.
    """
    from common import bench_prompts
    from ours import Ours, Work
    from turns import measure

    rows = bench_prompts(prompts, image_tokens, TEXT_TOKENS, images)
    lengths = {prompt.id: [max_tokens] * group_size for prompt in rows}
    side = Ours(folder, rows, lengths, Work(group_size, max_tokens), repeats + 1, microbatches=microbatches)
    steps = measure({"ours": side}, repeats, cuda=False)["ours"]
    phases = [row["phases"] for row in steps]
    return {
        "seconds": statistics.median(row["seconds"] for row in steps),
        "rollout": statistics.median(phase["rollout"] for phase in phases),
        "train": statistics.median(phase["forward"] + phase["backward"] for phase in phases),
        "prompt_tokens": float(TEXT_TOKENS + images * (image_tokens + 2)),
    }


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Fit ``seconds = c * size ** exponent``.

    Args:
        sizes: sizes.
        seconds: seconds at each.

    Returns:
        The exponent.
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Fit ``seconds = c + slope * size``.

    Args:
        sizes: sizes.
        seconds: seconds at each.

    Returns:
        The slope, seconds per unit of size.
    """
    return float(np.polyfit(sizes, seconds, 1)[0])


def sweep_length(folder: Path) -> dict[str, Any]:
    """Vary the completion length with 8 rows of one prompt.

    Args:
        folder: the policy.

    Returns:
        Measurements by length, the fits and their goals.
    """
    import torch
    from ceilings import quickest
    from transformers import AutoConfig

    sizes, rows = [128, 256, 512, 1024, 2048], 8
    runs = [step(folder, prompts=1, group_size=rows, max_tokens=size, repeats=1) for size in sizes]
    fits = {part: exponent(sizes, [run[part] for run in runs]) for part in ("rollout", "train")}
    per_step = [run["rollout"] / size for run, size in zip(runs, sizes, strict=True)]
    # A step reads the keys and values of all earlier tokens, on average half of the completion.
    growth = slope([size // 2 for size in sizes], per_step)
    text = AutoConfig.from_pretrained(folder).text_config
    cached = rows * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    memory = torch.randn(1 << 24)
    floor = cached / (4 * memory.numel() / quickest(memory.sum, "cpu"))
    return {
        "runs": dict(zip(sizes, runs, strict=True)),
        "fits": {
            "exponent of training": (fits["train"], 1.15),
            "exponent of rollout": (fits["rollout"], None),
            "decode step at 2048 over 128": (per_step[-1] / per_step[0], None),
            "growth of a decode step over reading its keys and values": (growth / floor, 1.2),
        },
    }


def sweep_group(folder: Path) -> dict[str, Any]:
    """Vary the group size at 256 image tokens.

    Args:
        folder: the policy.

    Returns:
        Measurements by group size, the growth from 4 to 16 and its goal.
    """
    sizes, length = [4, 8, 16], 32
    runs = [step(folder, prompts=4, group_size=size, max_tokens=length, image_tokens=256) for size in sizes]
    prompt = runs[0]["prompt_tokens"]
    goal = 1.15 * (prompt + 16 * length) / (prompt + 4 * length)
    grown = runs[-1]["seconds"] / runs[0]["seconds"]
    return {"runs": dict(zip(sizes, runs, strict=True)), "fits": {"step at G = 16 over G = 4": (grown, goal)}}


def sweep_images(folder: Path) -> dict[str, Any]:
    """Vary the images of a prompt, at two group sizes.

    Args:
        folder: the policy.

    Returns:
        Measurements by group size and images, the marginal costs and the goal of their ratio.
    """
    sizes, runs = [1, 2, 3], {}
    for group_size in (4, 16):
        for images in sizes:
            runs[f"G {group_size}, {images}"] = step(
                folder, prompts=4, group_size=group_size, max_tokens=16, image_tokens=256, images=images
            )
    slopes = [slope(sizes, [runs[f"G {g}, {n}"]["seconds"] for n in sizes]) for g in (4, 16)]
    fits = {
        "seconds per image and prompt, G = 4": (slopes[0] / 4, None),
        "seconds per image and prompt, G = 16": (slopes[1] / 4, None),
        "their ratio": (slopes[1] / slopes[0], 1.1),
    }
    return {"runs": runs, "fits": fits}


def sweep_prompts(folder: Path) -> dict[str, Any]:
    """Vary the prompts of a rollout, with 4 in each micro-batch.

    Args:
        folder: the policy.

    Returns:
        Measurements by number of prompts, the spread of the throughput and its goal.
    """
    sizes = [4, 16, 64]
    runs = [
        step(folder, prompts=size, group_size=4, max_tokens=32, microbatches=size // 4, repeats=2) for size in sizes
    ]
    rates = [size / run["seconds"] for size, run in zip(sizes, runs, strict=True)]
    fits = {"prompts per second, most over least": (max(rates) / min(rates), 1.1)}
    return {"runs": dict(zip(sizes, runs, strict=True)), "fits": fits}


SWEEPS = {
    "completion tokens": sweep_length,
    "group size": sweep_group,
    "images": sweep_images,
    "prompts": sweep_prompts,
}


def main() -> None:
    """Run the sweeps, print the table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SWEEPS, help="one sweep")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    from common import machine, quiet, tiny_policy, write_json

    quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_policy(folder)
        chosen = [arguments.only] if arguments.only else list(SWEEPS)
        found = {sweep: SWEEPS[sweep](folder) for sweep in chosen}
    print("| sweep | at | step | rollout | forward and backward |  CPU-seconds, one thread\n|---|---|---|---|---|")
    for sweep, result in found.items():
        for size, run in result["runs"].items():
            print(f"| {sweep} | {size} | {run['seconds']:.3f} | {run['rollout']:.3f} | {run['train']:.3f} |")
    print("\n| fit | value | goal at most |\n|---|---|---|")
    for sweep, result in found.items():
        for fit, (value, goal) in result["fits"].items():
            print(f"| {sweep}: {fit} | {value:.3f} | {'-' if goal is None else f'{goal:.2f}'} |")
    write_json(arguments.json, {"sweeps": found, "machine": machine()})


if __name__ == "__main__":
    main()
