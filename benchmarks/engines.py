"""Compare engines on one rollout of the embedded policy: start-up, a rollout, a push of the weights, and the gap.

python benchmarks/engines.py
python benchmarks/engines.py --engines native vllm --json engines.json                       # needs vLLM
python benchmarks/engines.py --engines native vllm_server --url http://127.0.0.1:8000        # needs a server of `serve`

All engines draw from the same counters, so they sample the same tokens. Seconds are CPU-seconds of this process, and
wall-clock seconds in brackets, which are all there is of a server. Engines take turns; the median of the turns counts.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, quiet, write_json

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.rollout.engines import build_engine

PROMPTS, GROUP, TOKENS = 18, 8, 40
"""Sizes of the default run."""


class Timer:
    """CPU and wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.process_time() - self._start[0], time.perf_counter() - self._start[1]


def sample(engine: RolloutEngine, prompts: list[Prompt], rollout: int) -> tuple[list[Completion], tuple[float, float]]:
    """Sample a rollout after bringing the engine up to date, and time it."""
    timer = Timer()
    engine.push()
    completions = engine.generate(prompts, GROUP, Sampling(TOKENS, rollout=rollout))
    return completions, timer.read()


def gaps(policy: Policy, prompts: list[Prompt], completions: list[Completion]) -> torch.Tensor:
    """Compare log-probabilities with those of the trainer's forward, nats, one per token."""
    rows = [prompt for prompt in prompts for _ in range(GROUP)]
    with torch.no_grad():
        own, _ = policy.token_stats(rows, [completion.token_ids for completion in completions])
    return (own.double() - torch.cat([completion.logprobs for completion in completions]).double()).abs()


def measure(policy: Policy, prompts: list[Prompt], names: list[str], turns: int, url: str) -> list[dict[str, Any]]:
    """Measure all engines in turns.

    Args:
        names: engines by short name.
        turns: measured rollouts of each.
        url: address of the server, for ``vllm_server``.

    Returns:
        The figures of each engine.
    """
    found: list[dict[str, Any]] = []
    engines = []
    for name in names:
        options = {"urls": [url]} if name == "vllm_server" else {}
        engine = build_engine(RolloutConfig(engine=name, engine_options=options))
        engine.check()
        engine.attach(policy)
        _, seconds = sample(engine, prompts, 0)
        engines.append(engine)
        found.append({"engine": name, "first": seconds, "rollouts": [], "pushes": []})
    for turn in range(1, turns + 1):
        same = None
        for engine, figures in zip(engines, found, strict=True):
            completions, seconds = sample(engine, prompts, turn)
            figures["rollouts"].append(seconds)
            texts = [completion.text for completion in completions]
            same = texts if same is None else same
            figures["equal"] = sum(a == b for a, b in zip(texts, same, strict=True))
            gap = gaps(policy, prompts, completions)
            figures |= {"mean_gap": float(gap.mean()), "max_gap": float(gap.max()), "tokens": len(gap)}
        # the same weights under a new number, so that an engine with a copy gets them again
        policy.version += 1
        for engine, figures in zip(engines, found, strict=True):
            timer = Timer()
            engine.push()
            figures["pushes"].append(timer.read())
    return found


def line(figures: dict[str, Any]) -> str:
    """Format the figures of an engine as a row of a table."""

    def both(values: list[tuple[float, float]]) -> str:
        cpu, wall = (statistics.median(column) for column in zip(*values, strict=True))
        return f"{cpu:.2f} ({wall:.2f})"

    cells = [figures["engine"], both([figures["first"]]), both(figures["rollouts"]), both(figures["pushes"])]
    cells += [f"{figures['mean_gap']:.1e}", f"{figures['max_gap']:.1e}", f"{figures['equal']} of {PROMPTS * GROUP}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["native", "huggingface", "vllm", "vllm_server"]
    parser.add_argument("--engines", nargs="+", choices=known, default=known[:2])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    policy = load_policy(PolicyConfig(path="package:lit_g2rpo.mini/weights")).eval()
    rows = MiniPrompts(train_per_task=8, val_per_task=1)
    rows.prepare_data()
    rows.setup("fit")
    dataset = rows.train_dataset()
    prompts = [dataset[index * len(dataset) // PROMPTS] for index in range(PROMPTS)]
    found = measure(policy, prompts, arguments.engines, arguments.turns, arguments.url)
    print("| engine | start and first rollout | a rollout | a push | mean gap | largest gap | equal completions |")
    print("|---|---|---|---|---|---|---|")
    for figures in found:
        print(line(figures))
    if arguments.json:
        write_json(arguments.json, {"machine": machine(), "engines": found})


if __name__ == "__main__":
    main()
