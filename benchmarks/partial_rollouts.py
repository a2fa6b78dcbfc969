"""Measure the cost of keeping finished groups on disk: python benchmarks/partial_rollouts.py.

In the default run, every rollout is sampled several times with `RolloutCheckpoint.partial_rollouts` and without, in
turns, before the policy learns from it once. Completions follow from counters, so the work is always the same. Times
are CPU-seconds, including threads that score and write; ``wall`` is wall-clock time. The share is relative to a whole
step, from prompts to the last optimizer step.
"""

import argparse
import contextlib
import importlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import machine, write_json

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "g2rpo.yaml"

Times = list[tuple[float, float]]
"""CPU-seconds and wall-clock seconds."""


def measure(rollouts: int, repeats: int, words: list[str]) -> dict[str, Times]:
    """Run the recipe.

    Args:
        words: more options of ``fit``.

    Returns:
        Times of each sampling ``with`` and ``without`` the setting, and of whole steps without it, ``step``.
    """
    from lit_g2rpo.module import G2RPOModule
    from lit_g2rpo.training.group_records import GroupRecords

    times: dict[str, Times] = {"with": [], "without": [], "step": []}
    step, collect = G2RPOModule.training_step, importlib.import_module("lit_g2rpo.module").collect
    ended = (0.0, 0.0)

    def now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def since(start: tuple[float, float]) -> tuple[float, float]:
        processor, clock = now()
        return processor - start[0], clock - start[1]

    def training_step(self: G2RPOModule, batch: Any, batch_idx: int) -> Any:
        nonlocal ended
        if batch[1] == 0:
            if times["with"]:
                times["step"].append(since(ended))
            folder = Path(self.trainer.default_root_dir) / "partial"
            # prompts and images are read once
            collect(self, batch[0])
            for k in range(2 * repeats):
                # each goes first equally often
                kind = ("with", "without")[(k + k // 2) % 2]
                self.records = GroupRecords(folder, 0) if kind == "with" else None
                os.sync()
                start = now()
                collect(self, batch[0])
                if self.records is not None:
                    # until everything is on disk
                    self.records.close()
                times[kind].append(since(start))
                if self.records is not None:
                    self.records.covered(self.rollout_index + 1)
                self.records = None
            ended = now()
        return step(self, batch, batch_idx)

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        patch.object(G2RPOModule, "training_step", training_step),
    ):
        options = ["--schedule.rollouts", str(rollouts), "--trainer.limit_val_batches", "0", *words]
        importlib.import_module("lit_g2rpo.__main__").dispatch("fit", ["--config", str(CONFIG), *options])
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--delay", type=float, help="seconds that a group may wait for others to be written with it")
    parser.add_argument("--json", type=Path)
    arguments, words = parser.parse_known_args()
    if arguments.delay is not None:
        importlib.import_module("lit_g2rpo.training.group_records").DELAY = arguments.delay
    times = measure(arguments.rollouts, arguments.repeats, words)
    result: dict[str, Any] = {"machine": machine()}
    for i, clock in enumerate(("processor", "wall")):
        median = {kind: statistics.median(found[i] for found in own) for kind, own in times.items()}
        # adjacent in time, so that both see the same load of the machine
        pairs = [a[i] - b[i] for a, b in zip(times["with"], times["without"], strict=True)]
        added, whole = statistics.median(pairs), median["step"]
        spread = statistics.quantiles(pairs, n=4)
        result[clock] = median | {"added": added, "share": added / whole, "quartiles": [spread[0], spread[2]]}
        print(
            f"{clock}: sampling {median['without']:.3f} s and {median['with']:.3f} s with groups kept, a whole step "
            f"{whole:.3f} s; {1000 * added:.1f} ms more (quartiles {1000 * spread[0]:.1f} to "
            f"{1000 * spread[2]:.1f}), {added / whole:.2%} of a step"
        )
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
