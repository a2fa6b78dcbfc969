"""Rollout by the native engine and by Hugging Face generate: the same policy, prompts, lengths and random numbers.

python benchmarks/decode.py --json decode.json

Both sides run in turns in one process; seconds are CPU-seconds of it (wall clock on a GPU), medians of turns. A step is
one token of all rows: (time for all tokens - time for one token) / (tokens - 1). The share of the product rate counts
the weights' products alone (not attention, norms, sampling) against a large matrix product on the same device.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import bench_prompts, machine, quiet, tiny_policy, write_json

from lit_g2rpo.experience import Completion
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native import NativeEngine


@dataclass(slots=True, frozen=True)
class Case:
    """What is sampled.

    Args:
        image_tokens: tokens of the image, 0 for none.
        prompts: number of prompts.
        group: completions per prompt.
        tokens: longest completion.
        mean: mean length wanted, by that many end tokens; 0 for completions that never end.
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


def clock(device: torch.device) -> float:
    """Seconds: of the process on a CPU, of the wall after all work on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], list[Completion]], device: torch.device) -> tuple[float, list[Completion]]:
    """Run and time."""
    start = clock(device)
    found = work()
    return clock(device) - start, found


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of five."""
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
    """FLOPs of the weights' products for one token of one row."""
    text = policy.base.model.language_model
    products = [p.numel() for name, p in text.layers.named_parameters() if p.ndim == 2 and "lora" not in name]
    return 2 * (sum(products) + policy.base.lm_head.weight.numel())


def measure(policy: Policy, case: Case, turns: int) -> dict[str, object]:
    """Time one case on both sides.

    Args:
        policy: the policy.
        case: what is sampled.
        turns: runs of each side.

    Returns:
        The case and its figures.
    """
    device = policy.device
    prompts = bench_prompts(case.prompts, case.image_tokens, 24)
    encoded = [policy.encode(prompt) for prompt in prompts]
    vocabulary = policy.base.config.text_config.vocab_size
    # A forbidden token is never drawn, so that nothing ends; or so many ordinary ones that completions end at the mean.
    ends = policy.forbidden_token_ids[:1] if not case.mean else list(range(100, 100 + round(vocabulary / case.mean)))
    policy.base.generation_config.eos_token_id = ends

    def run(engine: RolloutEngine, sampling: Sampling) -> list[Completion]:
        for prompt in encoded:
            prompt.features = None
        return engine.generate(prompts, case.group, sampling)

    engines: dict[str, RolloutEngine] = {"huggingface": HuggingFaceEngine(), "native": NativeEngine()}
    for engine in engines.values():
        engine.attach(policy)
        run(engine, Sampling(2))
    greedy = [run(engine, Sampling(case.tokens, temperature=0)) for engine in engines.values()]
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
        # `found` is the native engine's here: its steps are of rows that have not ended.
        row_steps = sum(len(completion.token_ids) - 1 for completion in found)
        shares.append(weight_flops(policy) * row_steps / (steps["native"][-1] * (longest - 1)) / rates[-1])
    tokens = sum(len(completion.token_ids) for completion in found)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": asdict(case),
        "prompt_tokens": len(encoded[0].input_ids),
        "seconds": middle,
        "ratio": statistics.median(a / b for a, b in zip(*seconds.values(), strict=True)),
        "ms_per_step": {name: 1e3 * statistics.median(values) for name, values in steps.items()},
        "tokens_per_second": {name: tokens / value for name, value in middle.items()},
        "product_rate": statistics.median(rates),
        "share_of_product_rate": statistics.median(shares),
        "same_greedy": all(torch.equal(a.token_ids, b.token_ids) for a, b in zip(*greedy, strict=True)),
    }


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="folder of a Qwen3-VL policy; a random one of about 6 M parameters by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="type of the weights")
    parser.add_argument("--turns", type=int, default=3, help="runs of each side")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the cases, from 0; all by default")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.policy is None:
            tiny_policy(Path(folder))
        path = arguments.policy or folder
        policy = load_policy(PolicyConfig(path=path, dtype=arguments.dtype, freeze=["vision", "merger"]))
    policy.to(arguments.device)
    cases = CASES if arguments.cases is None else [CASES[number] for number in arguments.cases]
    rows = [measure(policy, case, arguments.turns) for case in cases]
    names = "prompt tokens | rows | tokens | ms/step HF | ms/step native | tokens/s native | HF / native"
    print(f"| {names} | of product rate | same greedy |")
    print("|---" * 9 + "|")
    for row in rows:
        case, step = row["case"], row["ms_per_step"]
        length = f"{case['tokens']}" if not case["mean"] else f"{case['tokens']}, mean {case['mean']}"
        print(
            f"| {row['prompt_tokens']} | {case['prompts']} x {case['group']} | {length} | {step['huggingface']:.1f} |"
            f" {step['native']:.1f} | {row['tokens_per_second']['native']:.0f} | {row['ratio']:.2f} |"
            f" {row['share_of_product_rate']:.0%} | {'yes' if row['same_greedy'] else 'no'} |"
        )
    write_json(arguments.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
