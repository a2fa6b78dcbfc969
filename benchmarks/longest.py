"""Find the longest completion whose training step fits into memory, for this project and TRL, each in its own process.

python benchmarks/longest.py --device cuda --shape 2b --json longest.json

One prompt and its group make a step with one pass; completions grow by a quarter until a step runs out of memory. They
are random tokens, not decoded, so that a step is only training: log-probabilities, backward, optimizer. Both sides
recompute activations.
"""

import argparse
import json
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from common import bench_prompts, machine, quiet, write_json
from peak import in_own_process, peak_bytes, start_peak
from train import SHAPES, save

GROUP, TEXT_TOKENS = 8, 32
GROWTH = 1.25
SIDES = ("peer", "ours")


def lengths_to_try(first: int, last: int) -> list[int]:
    """List lengths that grow by a quarter.

    Args:
        first: the shortest, tokens.
        last: upper limit.

    Returns:
        The lengths.
    """
    found = [first]
    while int(found[-1] * GROWTH) <= last:
        found.append(int(found[-1] * GROWTH))
    return found


def undecoded(side: str, lengths: list[int]) -> Any:
    """Make a side's class whose rollouts write random tokens, with one length after the other.

    Args:
        side: one of ``SIDES``.
        lengths: tokens of every completion of each rollout.

    Returns:
        A class, ``Ours`` or ``Peer``.
    """
    from lit_g2rpo.experience import Completion
    from lit_g2rpo.rollout.engine import announce

    # ours does not need TRL
    base = import_module("ours").Ours if side == "ours" else import_module("peer").Peer
    left = iter(lengths)

    class Undecoded(base):  # type: ignore[misc, valid-type]
        def _time(self, trainer: Any) -> None:
            def ours(prompts: list[Any], group_size: int, sampling: Any, finished: Any = None) -> list[Completion]:
                length = next(left)
                rows = torch.randint(50, 300, (len(prompts) * group_size, length))
                stats = torch.zeros(length)
                completions = [Completion(row, stats - 6, stats, "", truncated=True) for row in rows]
                announce(completions, group_size, finished)
                return completions

            def peer(input_ids: Any, **_: Any) -> Any:
                rows = torch.randint(50, 300, (len(input_ids), next(left)), device=input_ids.device)
                return torch.cat([input_ids, rows], 1)

            if side == "ours":
                self.module.engine.generate = ours
            else:
                trainer.model.generate = peer
            super()._time(trainer)

    return Undecoded


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train one side in this process until memory runs out.

    Args:
        case: ``side``, ``folder``, ``dtype``, ``device``, ``image_tokens``, ``lora``, ``lengths`` and ``limit_gib``.

    Returns:
        ``peaks``: GiB for every length that fits.
    """
    from ours import Work

    quiet()
    device, lengths = case["device"], case["lengths"]
    prompts = bench_prompts(1, case["image_tokens"], TEXT_TOKENS - 2)
    options: dict[str, Any] = {"device": device, "dtype": case["dtype"]}
    if case["side"] == "ours":
        options["activation_checkpointing"] = "full"
    else:
        options |= {"rows": GROUP, "gradient_checkpointing": True}
    work = Work(GROUP, max(lengths), lora=case["lora"])
    forced = {prompts[0].id: [max(lengths)] * GROUP}
    side = undecoded(case["side"], lengths)(Path(case["folder"]), prompts, forced, work, len(lengths), **options)
    peaks: dict[str, float] = {}

    def pause() -> None:
        length = lengths[len(peaks)]
        peak = peak_bytes(device) / 2**30
        if case["limit_gib"] and peak > case["limit_gib"]:
            raise torch.OutOfMemoryError(f"{peak:.2f} GiB at {length} tokens")
        peaks[str(length)] = peak
        start_peak(device)

    start_peak(device)
    try:
        side.run(pause)
    except torch.OutOfMemoryError as error:
        return {"peaks": peaks, "ended": str(error).splitlines()[0]}
    return {"peaks": peaks, "ended": "the longest that was tried fits"}


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny", help="of the policy")
    parser.add_argument("--lora", action="store_true", help="adapters instead of all weights")
    parser.add_argument("--image-tokens", type=int, default=1024)
    parser.add_argument("--first", type=int, default=1024, help="shortest completion, tokens")
    parser.add_argument("--last", type=int, default=65_536, help="longest completion, tokens")
    parser.add_argument("--limit-gib", type=float, help="take a higher peak for the end of memory")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only:
        print(json.dumps(run(json.loads(arguments.only))))
        return
    with tempfile.TemporaryDirectory() as folder:
        case = {key: getattr(arguments, key) for key in ("shape", "lora", "image_tokens", "limit_gib", "device")}
        case |= {"folder": folder, "dtype": save(arguments.shape, Path(folder), arguments.device)}
        # The drawn weights are freed; the allocator's cached memory must be available to the sides.
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
        case["lengths"] = lengths_to_try(arguments.first, arguments.last)
        results = {side: in_own_process(__file__, case | {"side": side}) for side in SIDES}
    longest = {side: int(list(result["peaks"])[-1]) for side, result in results.items() if result.get("peaks")}
    print(f"{arguments.shape}, {arguments.image_tokens} image tokens, {GROUP} completions a pass, {machine()}")
    print("| tokens | TRL, GiB | ours, GiB |\n|---|---|---|")
    for length in map(str, case["lengths"]):
        cells = [result.get("peaks", {}).get(length) for result in results.values()]
        if any(cells):
            print("| " + " | ".join([length, *("-" if cell is None else f"{cell:.2f}" for cell in cells)]) + " |")
    for side, result in results.items():
        print(f"{side}: longest {longest.get(side, '-')}; {result.get('ended') or result['skipped']}")
    ratio = longest["ours"] / longest["peer"] if len(longest) == 2 else None
    figures = {"longest": longest, "ratio": ratio, "growth": GROWTH, "results": results}
    write_json(arguments.json, {"machine": machine(), "case": case} | figures)
    if ratio is None:
        sys.exit("a side has trained nothing")


if __name__ == "__main__":
    main()
