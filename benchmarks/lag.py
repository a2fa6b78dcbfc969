"""Measure how long a step takes without and with sampling one rollout ahead: python benchmarks/lag.py.

The engine stands for a server on another machine: it samples natively from a copy of the weights and then sleeps, which
takes no CPU time here; the few tokens that check a push are not slowed. The update sleeps as well, for the time that a
large policy would learn. Apart from that, it is a small default run. Times are wall-clock seconds, medians over the
rollouts after the second.
"""

import argparse
import contextlib
import copy
import importlib
import io
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import torch
from common import machine, write_json

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.curve_file import CURVES, read_points

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "g2rpo.yaml"
SMALL = ["--model.rollout.prompts", "6", "--model.rollout.group_size", "4", "--data.max_completion_tokens", "8"]


class Elsewhere(NativeEngine):
    """Sample from a copy of the weights, and take some time.

    Args:
        seconds: additional time of a rollout, seconds.
    """

    separate: ClassVar[bool] = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def attach(self, policy: Policy) -> None:
        """Copy the policy."""
        self.live, self.policy = policy, copy.deepcopy(policy).requires_grad_(False)

    @torch.no_grad()
    def push(self) -> None:
        """Copy the weights."""
        for own, weight in zip(self.policy.parameters(), self.live.parameters(), strict=True):
            own.copy_(weight)

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        """Sample, and sleep."""
        completions = super().generate(prompts, group_size, sampling, finished)
        time.sleep(self.seconds if finished else 0)
        return completions


def measure(lag: int, rollouts: int, rollout_seconds: float, update_seconds: float) -> dict[str, float]:
    """Run a small recipe.

    Returns:
        Seconds of a whole ``step``, of its ``rollout``, and of its ``update``.
    """
    from lit_g2rpo.module import G2RPOModule

    before_step = G2RPOModule.on_before_optimizer_step

    def slow_step(self: G2RPOModule, optimizer: torch.optim.Optimizer) -> None:
        time.sleep(update_seconds / self.steps_per_rollout)
        before_step(self, optimizer)

    engine = ["--model.rollout.engine", f"{Path(__file__).resolve()}:Elsewhere", "--model.rollout.lag", str(lag)]
    sizes = [*SMALL, "--schedule.rollouts", str(rollouts), "--trainer.limit_val_batches", "0"]
    options = [*engine, *sizes, "--model.rollout.engine_options", f"{{seconds: {rollout_seconds}}}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        patch.object(G2RPOModule, "on_before_optimizer_step", slow_step),
    ):
        importlib.import_module("lit_g2rpo.__main__").dispatch("fit", ["--config", str(CONFIG), *options])
        points = read_points(next(Path(folder).rglob(CURVES)))
    points = [point for point in points if "perf/rollout_seconds" in point][1:]
    steps = [after["time"] - before["time"] for before, after in pairwise(points)]
    return {
        "step": statistics.median(steps),
        "rollout": statistics.median(point["perf/rollout_seconds"] for point in points[1:]),
        "update": statistics.median(point["perf/update_seconds"] for point in points[1:]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=7)
    parser.add_argument("--rollout-seconds", type=float, nargs="+", default=[4.0, 4.0, 1.0])
    parser.add_argument("--update-seconds", type=float, nargs="+", default=[4.0, 1.0, 4.0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for sampling, learning in zip(arguments.rollout_seconds, arguments.update_seconds, strict=True):
        found = {lag: measure(lag, arguments.rollouts, sampling, learning) for lag in (0, 1)}
        rows.append({"rollout": sampling, "update": learning, "lag 0": found[0], "lag 1": found[1]})
        print(
            f"sleeping {sampling:g} s in a rollout and {learning:g} s in an update: a step took "
            f"{found[0]['step']:.2f} s without lag and {found[1]['step']:.2f} s with lag 1; without lag a rollout took "
            f"{found[0]['rollout']:.2f} s and an update {found[0]['update']:.2f} s",
            flush=True,
        )
    write_json(arguments.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
