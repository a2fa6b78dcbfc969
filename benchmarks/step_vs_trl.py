"""Compare a whole training step with TRL's GRPOTrainer: the same work, in turns, in CPU-seconds.

python benchmarks/step_vs_trl.py --case image64 --json image64.json
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        image_tokens: tokens of the prompt's image; 0 for none.
        max_tokens: longest completion, tokens.
        variable: lengths have an exponential distribution with mean about 35; otherwise all are ``max_tokens``.
        peer_rows: completions per forward and backward of TRL, the fastest of those tried.
        work: more fields of ``Work``.
        prompts: prompts per rollout.
        group_size: completions per prompt.
    """

    image_tokens: int
    max_tokens: int = 64
    variable: bool = False
    peer_rows: int = 16
    work: tuple[tuple[str, Any], ...] = ()
    prompts: int = 8
    group_size: int = 8


CASES = {
    "image64": Case(64),
    "image256": Case(256),
    "variable": Case(64, max_tokens=128, variable=True),
    "text": Case(0, max_tokens=128),
    "trained_tower": Case(256, work=(("tower", True),)),
    "long_prompt": Case(1024, max_tokens=256),
    "long_both": Case(1024, max_tokens=1024, peer_rows=8),
    "trial": Case(16, max_tokens=16, peer_rows=8, prompts=2, group_size=4),
    "lora_kl": Case(64, work=(("lora", True), ("kl", 0.04), ("updates", 4))),
}
TEXT_TOKENS = 32


def completion_lengths(case: Case, names: list[str]) -> dict[str, list[int]]:
    """Draw the length of every completion.

    Args:
        case: the case.
        names: ids of the prompts.

    Returns:
        Tokens of each completion, including the end token, by id of its prompt.
    """
    shape = (case.prompts, case.group_size)
    lengths = np.full(shape, case.max_tokens)
    if case.variable:
        lengths = np.random.default_rng(1).exponential(37, shape).astype(int).clip(4, case.max_tokens)
    return dict(zip(names, lengths.tolist(), strict=True))


def same_work(sides: dict[str, Any], lengths: dict[str, list[int]], rollouts: int, updates: int) -> dict[str, float]:
    """Reject a comparison of different work.

    Args:
        sides: the sides by name, after their runs.
        lengths: tokens of each completion, by id of its prompt.
        rollouts: rollouts of the run.
        updates: optimizer steps per rollout.

    Returns:
        The distance that each side's weights moved.
    """
    for name, side in sides.items():
        assert side.lengths == [lengths] * rollouts, f"{name} did not write completions of the given lengths"
        assert side.updates == rollouts * updates, f"{name} made {side.updates} of {rollouts * updates} updates"
    moved = {name: side.moved() for name, side in sides.items()}
    assert max(moved.values()) < 2 * min(moved.values()), f"the weights moved by different amounts: {moved}"
    return moved


def build(
    case: Case, folder: Path, rollouts: int, peer: list[dict[str, Any]], shape: str = "tiny", **ours: Any
) -> tuple[Any, Any, Any]:
    """Build the sides.

    Args:
        case: the case.
        folder: folder of the policy.
        rollouts: rollouts of each run.
        peer: settings of TRL, one run each.
        shape: shape of the policy.
        **ours: settings of our run.

    Returns:
        The sides by name, lengths and work.
    """
    from common import bench_prompts
    from ours import Ours, Work
    from peer import Peer
    from train import save

    dtype = save(shape, folder, str(ours.get("device", "cpu")))
    # An image is between two tokens of its own, which count as its prompt's text here.
    text = TEXT_TOKENS - 2 if case.image_tokens else TEXT_TOKENS
    prompts = bench_prompts(case.prompts, case.image_tokens, text)
    lengths = completion_lengths(case, [prompt.id for prompt in prompts])
    work = Work(case.group_size, case.max_tokens, **dict(case.work))
    sides = {
        " ".join(f"{k}={v}" for k, v in options.items()): Peer(
            folder, prompts, lengths, work, rollouts, dtype=dtype, **options
        )
        for options in peer
    }
    return sides | {"ours": Ours(folder, prompts, lengths, work, rollouts, dtype=dtype, **ours)}, lengths, work


def main() -> None:
    """Measure a case, print the table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--pairs", type=int, default=5, help="measured steps of each side")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("tiny", "2b", "8b"), default="tiny", help="of the policy")
    parser.add_argument("--tokens", type=int, help="longest completion, the case's own by default")
    parser.add_argument("--lora", action="store_true", help="adapters instead of all weights")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the layers' activations on both sides")
    parser.add_argument("--rows", type=int, help="TRL: completions per forward and backward, the case's own by default")
    parser.add_argument("--microbatches", type=int, default=4, help="ours: passes per rollout")
    parser.add_argument("--engine", default="native", help="ours: rollout engine")
    parser.add_argument("--alternatives", action="store_true", help="measure other settings of TRL too")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    try:
        import trl
    except ModuleNotFoundError:
        print("TRL is not installed: nothing to compare with (pip install trl)")
        return
    from common import machine, quiet, write_json
    from turns import measure, medians

    quiet()
    case, rollouts = CASES[arguments.case], arguments.pairs + 1
    if arguments.lora:
        case = replace(case, work=(*case.work, ("lora", True)))
    rows, tokens = arguments.rows or case.peer_rows, arguments.tokens or case.max_tokens
    case = replace(case, peer_rows=rows, max_tokens=tokens)
    peers: list[dict[str, Any]] = [{"rows": case.peer_rows}]
    if arguments.alternatives:
        peers += alternatives(case)
    device = arguments.device
    peers = [options | {"device": device, "gradient_checkpointing": arguments.checkpointing} for options in peers]
    with tempfile.TemporaryDirectory() as folder:
        sides, lengths, work = build(
            case,
            Path(folder),
            rollouts,
            peers,
            shape=arguments.shape,
            activation_checkpointing="full" if arguments.checkpointing else "off",
            device=device,
            microbatches=max(arguments.microbatches // dict(case.work).get("updates", 1), 1),
            engine=arguments.engine,
        )
        steps = measure(sides, arguments.pairs, device == "cuda")
        moved = same_work(sides, lengths, rollouts, work.updates)
    seconds = {name: [step["seconds"] for step in rows] for name, rows in steps.items()}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    peer_name = min((name for name in sides if name != "ours"), key=lambda name: middle[name])
    both = {"peer": peer_name, "ours": "ours"}
    result = {
        "case": arguments.case,
        "shape": arguments.shape,
        "lora": arguments.lora,
        "ratio": middle[peer_name] / middle["ours"],
        "ratio_of_pairs": statistics.median(a / b for a, b in zip(seconds[peer_name], seconds["ours"], strict=True)),
        "unit": "seconds" if device == "cuda" else "CPU-seconds, one thread",
        "seconds": {side: seconds[name] for side, name in both.items()},
        "wall": {side: statistics.median(step["wall"] for step in steps[name]) for side, name in both.items()},
        "peak_gib": {side: max(step["peak_gib"] for step in steps[name]) for side, name in both.items()},
        "phases": {side: medians([step["phases"] for step in steps[name]]) for side, name in both.items()},
        "counters": {side: medians([step["counters"] for step in steps[name]]) for side, name in both.items()},
        "settings": {side: sides[name].settings for side, name in both.items()},
        "peer_alternatives": {name: middle[name] for name in sides if name != "ours"},
        "moved": {side: moved[name] for side, name in both.items()},
        "answer_tokens": sum(map(sum, lengths.values())),
        "machine": machine() | {"trl": trl.__version__},
    }
    report(result)
    write_json(arguments.json, result)


def alternatives(case: Case) -> list[dict[str, Any]]:
    """Return settings of TRL that might be faster than the case's own.

    Args:
        case: the case.

    Returns:
        Settings, one run each.
    """
    largest = case.prompts * case.group_size // dict(case.work).get("updates", 1)
    sizes = [rows for rows in (largest, largest // 2, largest // 4) if rows != case.peer_rows]
    return [*({"rows": rows} for rows in sizes), {"rows": case.peer_rows, "cache_implementation": "static"}]


def report(result: dict[str, Any]) -> None:
    """Print the table of a result.

    Args:
        result: the result written as JSON.
    """
    phases, counters = result["phases"], result["counters"]
    pairs = len(result["seconds"]["ours"])
    print(f"\n{result['case']}, {result['shape']}: {result['unit']} per step, medians of {pairs} pairs")
    print("| | TRL | ours | ratio |\n|---|---|---|---|")
    for name in dict.fromkeys([*phases["peer"], *phases["ours"]]):
        a, b = phases["peer"].get(name, 0.0), phases["ours"].get(name, 0.0)
        print(f"| {name} | {a:.3f} | {b:.3f} | {f'{a / b:.2f}' if b > 1e-3 else '-'} |")
    a, b = (statistics.median(result["seconds"][side]) for side in ("peer", "ours"))
    print(f"| **step** | {a:.2f} | {b:.2f} | **{result['ratio']:.2f}** (pairs {result['ratio_of_pairs']:.2f}) |")
    a, b = (result["peak_gib"][side] for side in ("peer", "ours"))
    print(f"| peak GiB | {a:.2f} | {b:.2f} | {a / b:.2f} |")
    for name in dict.fromkeys([*counters["peer"], *counters["ours"]]):
        print(f"| {name} | {counters['peer'].get(name, 0):.0f} | {counters['ours'].get(name, 0):.0f} | |")
    print(f"answer tokens: {result['answer_tokens']}; wall: {result['wall']}")
    print(f"TRL {result['machine']['trl']}: {result['settings']['peer']}")
    if len(result["peer_alternatives"]) > 1:
        print("TRL's settings tried:", {name: round(value, 2) for name, value in result["peer_alternatives"].items()})


if __name__ == "__main__":
    main()
