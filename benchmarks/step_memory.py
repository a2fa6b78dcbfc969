"""Compare the peak memory of a whole training run with TRL's: the cases of step_vs_trl.py on the CPU.

python benchmarks/step_memory.py --case variable --microbatches 1 4
python benchmarks/step_memory.py --case image64 --rows --prompts 16 --microbatches 4

Every run has its own process, whose allocator returns large blocks at once, so that resident memory follows tensors.
Everything above the imported libraries counts: weights, gradients, optimizer and the memory of each phase.
"""

import argparse
import json
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peak import count_peak_anew, in_own_process, memory
from step_vs_trl import CASES, build
from turns import Phases

# The C library reads this when a process starts.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
ROLLOUTS = 2
"""The optimizer's state exists from the first step on, so the second step has everything in memory."""


class Peaks(Phases):
    """Peak memory of named phases instead of seconds; the loader's thread counts for the phase during which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)
        self._names = ["other"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the peak inside the context to a phase.

        Args:
            name: the phase.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.charge()
        self._names.append(name)
        try:
            yield
        finally:
            self.charge()
            self._names.pop()

    def charge(self) -> None:
        """Charge the peak since the last call to the current phase."""
        name = self._names[-1]
        self.bytes[name] = max(self.bytes[name], memory("VmHWM"))
        count_peak_anew()


def run(case: dict[str, Any]) -> dict[str, float]:
    """Measure one run in this process.

    Args:
        case: ``case``, ``side`` (``peer`` or ``ours``), and ``rows`` of TRL or ``passes`` of ours; ``prompts``
            per rollout, by default the case's own.

    Returns:
        GiB above the libraries, by phase and as ``whole``.
    """
    import torch

    torch.set_num_threads(1)
    from common import quiet

    quiet()
    peer, ours = ([{"rows": case["rows"]}], {}) if case["side"] == "peer" else ([], {"microbatches": case["passes"]})
    chosen = CASES[case["case"]]
    chosen = replace(chosen, prompts=case["prompts"] or chosen.prompts)
    with tempfile.TemporaryDirectory() as folder:
        sides, lengths, _ = build(chosen, Path(folder), ROLLOUTS, peer, **ours)
        side = next(iter(sides.values()))
        side.phases = peaks = Peaks()
        before = memory("VmRSS")
        count_peak_anew()
        side.run(lambda: None)
        peaks.charge()
    assert side.lengths == [lengths] * ROLLOUTS, f"{case['side']} did not write completions of the given lengths"
    gib = {name: (peak - before) / 2**30 for name, peak in peaks.bytes.items()}
    return gib | {"whole": max(gib.values())}


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="variable")
    parser.add_argument("--rows", nargs="*", type=int, default=[16], help="TRL: completions per forward and backward")
    parser.add_argument("--microbatches", nargs="*", type=int, default=[1, 4], help="ours: passes per optimizer step")
    parser.add_argument("--prompts", type=int, help="prompts per rollout, the case's own by default")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run(json.loads(arguments.only))))
        return
    from common import machine, write_json

    cases: list[dict[str, Any]] = [{"side": "peer", "rows": rows} for rows in arguments.rows]
    cases += [{"side": "ours", "passes": count} for count in arguments.microbatches]
    cases = [case | {"case": arguments.case, "prompts": arguments.prompts} for case in cases]
    os.environ |= ENVIRONMENT
    results = [case | in_own_process(__file__, case) for case in cases]
    phases = ("preprocess", "rollout", "logprobs", "forward", "backward", "optimizer", "other", "whole")
    print(f"{arguments.case}, peak GiB above libraries\n| | {' | '.join(phases)} |\n{'|---' * (len(phases) + 1)}|")
    for result in results:
        name = f"TRL, {result['rows']} rows" if result["side"] == "peer" else f"ours, {result['passes']} passes"
        figures = [f"{result[phase]:.3f}" if phase in result else "-" for phase in phases]
        print(f"| {name} | {' | '.join([result['skipped']] if 'skipped' in result else figures)} |")
    write_json(arguments.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
