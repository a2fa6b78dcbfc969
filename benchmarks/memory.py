"""Measure the peak memory of one training pass over completion length T, group size G and prompts P.

python benchmarks/memory.py --json memory.json
python benchmarks/memory.py --device cuda --shape 2b --tokens 256 1024 --group-size 8 --prompts 4 8

One of T, G and P changes at a time; the others keep their first value. ``padded`` reads one row per completion,
``packed`` each prompt once; both use the one-pass head and ``--checkpointing``. Every case runs in its own process; the
peak is the memory of forward and backward above weights and libraries.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import machine, write_json
from peak import in_own_process, measure
from train import SHAPES, build, microbatch, one_pass

from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.forward.checkpointing import checkpoint_activations
from lit_g2rpo.policy.policy import Policy


def run(case: dict[str, Any]) -> dict[str, float]:
    """Measure one case in this process.

    Args:
        case: ``shape``, ``device``, ``packing``, ``checkpointing``, ``image_tokens``, ``tokens``, ``group_size`` and
            ``prompts``.

    Returns:
        ``seconds`` and ``peak_gib``.
    """
    model, processor = build(case["shape"], case["device"])
    checkpoint_activations(model, case["checkpointing"])
    policy = Policy(model, processor, Qwen3VL(), packing=case["packing"]).train()
    batch = microbatch(policy, argparse.Namespace(variable=False, **case), case["image_tokens"])
    # The frozen tower's features and the gradients count as memory in use before.
    policy.prepare_features(batch.prompts)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    return measure(lambda: one_pass(policy, batch).backward(), case["device"])  # type: ignore[no-untyped-call]


def sweep(arguments: argparse.Namespace) -> list[dict[str, int]]:
    """List the sizes to measure: all first values, then one change at a time.

    Args:
        arguments: ``tokens``, ``group_size`` and ``prompts``, each a list.

    Returns:
        The sizes.
    """
    names = ("tokens", "group_size", "prompts")
    first = {name: getattr(arguments, name)[0] for name in names}
    return [first] + [first | {name: value} for name in names for value in getattr(arguments, name)[1:]]


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 128, 256], help="T, tokens of a completion")
    parser.add_argument("--group-size", nargs="+", type=int, default=[8, 4, 16], help="G")
    parser.add_argument("--prompts", nargs="+", type=int, default=[4, 2, 8], help="P, prompts of one pass")
    parser.add_argument("--image-tokens", type=int, default=64)
    parser.add_argument("--checkpointing", choices=["off", "selective", "full"], default="off")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(1)
        print(json.dumps(run(json.loads(arguments.only))))
        return
    shared = {key: getattr(arguments, key) for key in ("shape", "image_tokens", "checkpointing", "device")}
    cases = [sizes | shared | {"packing": packing} for sizes in sweep(arguments) for packing in (False, True)]
    results = [case | in_own_process(__file__, case) for case in cases]
    print(f"{arguments.shape}, {arguments.image_tokens} image tokens, {arguments.device}, {machine()}")
    print("| T | G | P | padded GiB | packed GiB | packed / padded | packed seconds |\n|---|---|---|---|---|---|---|")
    for padded, packed in zip(results[::2], results[1::2], strict=True):
        peaks = [result.get("peak_gib") for result in (padded, packed)]
        cells = [f"{peak:.3f}" if peak is not None else "skipped" for peak in peaks]
        ratio = f"{peaks[1] / peaks[0]:.2f}" if None not in peaks else "-"
        sizes = " | ".join(str(padded[name]) for name in ("tokens", "group_size", "prompts"))
        seconds = f"{packed['seconds']:.2f}" if "seconds" in packed else "-"
        print(f"| {sizes} | {cells[0]} | {cells[1]} | {ratio} | {seconds} |")
    for why in dict.fromkeys(result["skipped"] for result in results if "skipped" in result):
        print(f"skipped: {why}")
    write_json(arguments.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
