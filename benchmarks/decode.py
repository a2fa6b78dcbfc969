"""Compare rollouts of the native engine and Hugging Face generate: same policy, prompts, lengths and random numbers.

python benchmarks/decode.py --json decode.json

Both sides run in turns in one process; seconds are its CPU-seconds (wall clock on a GPU), medians over turns. A step is
one token of all rows: (time for all tokens - time for one token) / (tokens - 1). The share of the product rate only
counts the weights' products (not attention, norms, sampling) against a large matrix product on the same device; the
share of the bandwidth floor is the time in which a copy would move the weights, keys and values that a step reads.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ceilings import copy_rate
from common import bench_prompts, machine, quiet, write_json
from train import SHAPES, build
from transformers import CompileConfig

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine


@dataclass(slots=True, frozen=True)
class Case:
    """Sizes of a rollout to sample.

    Args:
        image_tokens: tokens of the image, 0 for none.
        prompts: number of prompts.
        group: completions per prompt.
        tokens: longest completion.
        mean: target mean length, set by the number of end tokens; 0 for completions that never end.
    """

    image_tokens: int
    prompts: int = 8
    group: int = 8
    tokens: int = 64
    mean: int = 0


CASES = [
    Case(0),
    Case(64),
    Case(256),
    Case(64, tokens=128, mean=35),
    Case(64, tokens=256),
    Case(64, prompts=8, group=1),
    Case(64, prompts=1, group=1),
]


class StaticCacheEngine(HuggingFaceEngine):
    """``generate`` with a static cache and compiled steps."""

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        """Sample like the class above, with additions to the model's own settings."""
        settings = self.policy.base.generation_config
        # By default, transformers compiles only on accelerators.
        compiled = CompileConfig()
        compiled._compile_all_devices = True
        settings.cache_implementation, settings.compile_config = "static", compiled
        try:
            return super().generate(prompts, group_size, sampling, finished)
        finally:
            settings.cache_implementation = settings.compile_config = None


def clock(device: torch.device) -> float:
    """Return seconds: CPU time of the process on a CPU, wall-clock time after all work on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], list[Completion]], device: torch.device) -> tuple[float, list[Completion]]:
    """Run a function and time it."""
    start = clock(device)
    found = work()
    return clock(device) - start, found


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product, the best of five."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    torch.mm(a, a)
    seconds = []
    for _ in range(5):
        start = clock(device)
        torch.mm(a, a)
        seconds.append(clock(device) - start)
    return 2 * size**3 / min(seconds)


def weight_flops(policy: Policy) -> int:
    """Return the FLOPs of the weights' products for one token of one row."""
    text = policy.base.model.language_model
    products = [p.numel() for name, p in text.layers.named_parameters() if p.ndim == 2 and "lora" not in name]
    return 2 * (sum(products) + policy.base.lm_head.weight.numel())


def bytes_of_step(policy: Policy, case: Case, prompt_tokens: int) -> float:
    """Return the bytes that a step must read, averaged over steps: weights, each prompt once, each row's own tokens."""
    text = policy.base.config.text_config
    weights = [*policy.base.model.language_model.layers.parameters(), policy.base.lm_head.weight]
    tokens = case.prompts * (prompt_tokens + case.group * case.tokens / 2)
    width = text.num_hidden_layers * 2 * text.num_key_value_heads * text.head_dim * weights[-1].element_size()
    return sum(weight.numel() * weight.element_size() for weight in weights) + tokens * width


def measure(policy: Policy, case: Case, turns: int, static: bool) -> dict[str, object]:
    """Time one case on all sides.

    Args:
        policy: the policy.
        case: sizes of the rollout.
        turns: runs of each side.
        static: also measure Hugging Face's static cache with compiled steps.

    Returns:
        The case and its figures.
    """
    device = policy.device
    prompts = bench_prompts(case.prompts, case.image_tokens, 24)
    encoded = [policy.encode(prompt) for prompt in prompts]
    vocabulary = policy.base.config.text_config.vocab_size
    # A forbidden token is never drawn, so nothing ends; or enough ordinary ones that completions end at the mean.
    ends = policy.forbidden_token_ids[:1] if not case.mean else list(range(100, 100 + round(vocabulary / case.mean)))
    policy.base.generation_config.eos_token_id = ends

    def run(engine: RolloutEngine, sampling: Sampling) -> list[Completion]:
        for prompt in encoded:
            prompt.features = None
        return engine.generate(prompts, case.group, sampling)

    engines: dict[str, RolloutEngine] = {"huggingface": HuggingFaceEngine()}
    engines |= {"static": StaticCacheEngine()} if static else {}
    engines |= {"native": NativeEngine()}
    warm_up, greedy = {}, []
    for name, engine in engines.items():
        engine.attach(policy)
        # Steps are compiled for the length of the measured runs.
        warm_up[name], found = timed(lambda e=engine: run(e, Sampling(case.tokens, temperature=0)), device)
        greedy.append(found)
        if name == "static":
            # Its next cache has other addresses, for which steps may be compiled or captured again.
            run(engine, Sampling(case.tokens))
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    steps: dict[str, list[float]] = {name: [] for name in engines}
    rates, shares = [], []
    for turn in range(turns):
        for name, engine in engines.items():
            whole, found = timed(lambda e=engine, r=turn: run(e, Sampling(case.tokens, rollout=r)), device)
            first, _ = timed(lambda e=engine, r=turn: run(e, Sampling(1, rollout=r)), device)
            longest = max(len(completion.token_ids) for completion in found)
            seconds[name].append(whole)
            steps[name].append((whole - first) / (longest - 1))
        rates.append(product_rate(device, policy.base.lm_head.weight.dtype))
        # `found` is the native engine's here: its steps only have rows that have not ended.
        row_steps = sum(len(completion.token_ids) - 1 for completion in found)
        shares.append(weight_flops(policy) * row_steps / (steps["native"][-1] * (longest - 1)) / rates[-1])
    tokens = sum(len(completion.token_ids) for completion in found)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": asdict(case),
        "prompt_tokens": len(encoded[0].input_ids),
        "seconds": middle,
        "warm_up_seconds": warm_up,
        "ratio": {
            name: statistics.median(a / b for a, b in zip(values, seconds["native"], strict=True))
            for name, values in seconds.items()
        },
        "ms_per_step": {name: 1e3 * statistics.median(values) for name, values in steps.items()},
        "tokens_per_second": {name: tokens / value for name, value in middle.items()},
        "product_rate": statistics.median(rates),
        "share_of_product_rate": statistics.median(shares),
        # If rows do not end, every step decodes the same number, as the floor assumes.
        "share_of_bandwidth_floor": None
        if case.mean
        else bytes_of_step(policy, case, len(encoded[0].input_ids))
        / copy_rate(device.type)
        / statistics.median(steps["native"]),
        "same_greedy": all(
            torch.equal(row[0].token_ids, other.token_ids) for row in zip(*greedy, strict=True) for other in row
        ),
    }


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny", help="of the policy, of random weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--turns", type=int, default=3, help="runs of each side")
    parser.add_argument("--case", type=int, nargs=3, action="append", metavar=("IMAGE_TOKENS", "TOKENS", "MEAN"),
                        help="8 prompts x 8 of these sizes, not the usual cases; mean 0: a fixed length")  # fmt: skip
    parser.add_argument("--static", action="store_true", help="at fixed lengths also a static cache, compiled")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    policy = Policy(*build(arguments.shape, arguments.device), Qwen3VL(), packing=True)
    given = [Case(image, tokens=tokens, mean=mean) for image, tokens, mean in arguments.case or []]
    rows = [measure(policy, case, arguments.turns, arguments.static and not case.mean) for case in given or CASES]
    names = "prompt tokens | rows | tokens | ms/step HF | ms/step native | tokens/s native | HF / native"
    print(f"| {names} | static / native | of product rate | of bandwidth floor | same greedy |")
    print("|---" * 11 + "|")
    for row in rows:
        case, step = row["case"], row["ms_per_step"]
        length = f"{case['tokens']}" if not case["mean"] else f"{case['tokens']}, mean {case['mean']}"
        static = f"{row['ratio']['static']:.2f}" if "static" in row["ratio"] else "-"
        floor = "-" if row["share_of_bandwidth_floor"] is None else f"{row['share_of_bandwidth_floor']:.0%}"
        print(
            f"| {row['prompt_tokens']} | {case['prompts']} x {case['group']} | {length} | {step['huggingface']:.1f} |"
            f" {step['native']:.1f} | {row['tokens_per_second']['native']:.0f} |"
            f" {row['ratio']['huggingface']:.2f} | {static} | {row['share_of_product_rate']:.0%} | {floor} |"
            f" {'yes' if row['same_greedy'] else 'no'} |"
        )
    write_json(arguments.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
