"""Compare training with padded rows and packed groups: time, share of product rate, gradient error.

python benchmarks/train.py --image-tokens 64 256 --json train.json
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import bench_processor, bench_prompts, machine, tiny_policy, write_json
from torch import Tensor
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.policy import Policy

TEXT_TOKENS = 32
TOKEN_LOSS = GRPO().token_loss
# text layers, width, inner width, heads, vision layers, width, inner width, DeepStack layers
SHAPES: dict[str, tuple[int, int, int, int, int, int, int, list[int]]] = {
    "2b": (28, 2048, 6144, 16, 24, 1024, 4096, [5, 11, 17]),
    "8b": (36, 4096, 12288, 32, 27, 1152, 4304, [8, 16, 24]),
}


def build(shape: str, device: str) -> tuple[Any, Any]:
    """Build a policy with random weights and a frozen tower: ``tiny`` in float32, the others in bfloat16.

    Args:
        shape: ``tiny`` or one of ``SHAPES``.
        device: device of the policy.

    Returns:
        Model and processor.
    """
    processor = bench_processor()
    if shape == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            tiny_policy(Path(folder))
            model: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder).to(device)
    else:
        layers, width, inner, heads, depth, vision_width, vision_inner, deepstack = SHAPES[shape]
        ids = processor.tokenizer.get_vocab()
        rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
        text = {
            "vocab_size": 151_936, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "rope_parameters": rope,
            "tie_word_embeddings": shape == "2b",
        }  # fmt: skip
        vision = {
            "depth": depth, "hidden_size": vision_width, "intermediate_size": vision_inner, "num_heads": 16,
            "out_hidden_size": width, "deepstack_visual_indexes": deepstack,
        }  # fmt: skip
        tokens = {f"{name}_token_id": ids[f"<|{name}_pad|>"] for name in ("image", "video")}
        tokens |= {f"vision_{name}_token_id": ids[f"<|vision_{name}|>"] for name in ("start", "end")}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **tokens, tie_word_embeddings=shape == "2b")
        with torch.device(device):
            torch.set_default_dtype(torch.bfloat16)
            model = Qwen3VLForConditionalGeneration(config)
            torch.set_default_dtype(torch.float32)
    model.model.visual.requires_grad_(False)
    Qwen3VL().prepare_for_packing(model)
    return model, processor


def save(shape: str, folder: Path, device: str) -> str:
    """Save a policy with random weights and its processor.

    Args:
        shape: ``tiny`` or one of ``SHAPES``.
        folder: folder to write.
        device: device on which weights are drawn.

    Returns:
        The dtype of the weights.
    """
    model, processor = build(shape, device)
    processor.save_pretrained(folder)
    # The vocabulary's last token, as forced lengths require; in a large vocabulary the tokenizer's own is not the last.
    last = model.config.text_config.vocab_size - 1
    model.generation_config = GenerationConfig(pad_token_id=processor.tokenizer.pad_token_id, eos_token_id=last)
    model.save_pretrained(folder)
    return str(model.dtype).removeprefix("torch.")


def microbatch(policy: Policy, args: argparse.Namespace, image_tokens: int) -> Microbatch:
    """Make groups of random completions with random advantages.

    Args:
        policy: the loss fields get its dtypes and device.
        args: sizes.
        image_tokens: tokens of each image.

    Returns:
        The micro-batch.
    """
    generator = torch.Generator().manual_seed(0)
    prompts = bench_prompts(args.prompts, image_tokens, TEXT_TOKENS)
    rows = [prompt for prompt in prompts for _ in range(args.group_size)]
    lengths = [args.tokens] * len(rows)
    if args.variable:  # the mean is about a quarter of the longest
        drawn = torch.empty(len(rows)).exponential_(4 / args.tokens, generator=generator)
        lengths = [min(args.tokens, 1 + int(length)) for length in drawn]
    tokens = [torch.randint(50, 300, (length,), generator=generator) for length in lengths]
    count = sum(lengths)
    like = policy.empty
    advantages = torch.randn(count, generator=generator).to(like)
    zeros = torch.zeros(count).to(like)
    fields = TokenFields(advantages, zeros - 6, None, zeros + 1 / count, zeros, zeros.long())
    return Microbatch(rows, tokens, fields)


def padded_full(policy: Policy, batch: Microbatch) -> Tensor:
    """Compute the loss from padded rows and the logits of all completion tokens."""
    hidden, targets = policy.hidden_states(batch.prompts, batch.token_ids)
    logprobs = (hidden @ policy.base.lm_head.weight.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return TOKEN_LOSS(logprobs, logprobs.detach(), batch.fields)[0].sum()


def one_pass(policy: Policy, batch: Microbatch) -> Tensor:
    """Compute the loss as training does."""
    return policy.loss(batch, TOKEN_LOSS)[0]


MODES = {"padded, full logits": padded_full, "padded, one-pass head": one_pass, "packed": one_pass}


def flops(policy: Policy, batch: Microbatch, tokens: int) -> float:
    """Count the FLOPs of forward and backward: layers, head and attention, without the frozen tower.

    Args:
        policy: the policy.
        batch: the micro-batch.
        tokens: tokens that the layers read, including pads.

    Returns:
        The count; attention only counts pairs that see each other, so work on pads earns nothing there.
    """
    text = policy.base.config.text_config
    layers = policy.base.model.language_model.layers
    linear = sum(p.numel() for p in layers.parameters() if p.ndim == 2) * tokens
    head = policy.base.lm_head.weight.numel() * sum(len(ids) for ids in batch.token_ids)
    prompts = {id(p): len(policy.encode(p).input_ids) for p in batch.prompts}
    rows = zip(batch.prompts, batch.token_ids, strict=True)
    if policy.packing:
        own = [(prompts[id(prompt)], len(ids) - 1) for prompt, ids in rows]
        pairs = sum(n * n / 2 for n in prompts.values()) + sum(n * (length + n / 2) for length, n in own)
    else:
        pairs = sum((prompts[id(prompt)] + len(ids)) ** 2 / 2 for prompt, ids in rows)
    attention = 2 * pairs * text.num_attention_heads * text.head_dim * len(layers)
    return 6.0 * (linear + head + attention)


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Measure the rate of large matrix products.

    Args:
        device: device to run on.
        dtype: dtype of the factors.

    Returns:
        Operations per second; per second of CPU time on a CPU.
    """
    sizes = [(4096, 256, 1024), (4096, 1024, 256), (1024, 1024, 1024)] if device == "cpu" else [(8192, 8192, 8192)]
    rates = []
    for m, k, n in sizes:
        a, b = (torch.randn(size, device=device, dtype=dtype) for size in ((m, k), (k, n)))
        for _ in range(5):
            seconds, _ = measure(lambda a=a, b=b: [a @ b for _ in range(8)], device)
            rates.append(16.0 * m * k * n / seconds)
    return max(rates)


def measure(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Time a piece of work, in CPU-seconds or in seconds on a GPU, and return its result."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start, result


def compare(model: Any, processor: Any, args: argparse.Namespace, image_tokens: int, rate: float) -> dict[str, Any]:
    """Measure all modes on the same rows, in turns.

    Args:
        model: the model.
        processor: its processor.
        args: sizes.
        image_tokens: tokens of each image.
        rate: operations per second that the machine reaches.

    Returns:
        Per mode: median seconds, share of the rate, speed relative to the first mode, and the largest relative error
        of a parameter's gradient against it.
    """
    padded, packed = (Policy(model, processor, Qwen3VL(), packing=packing).train() for packing in (False, True))
    batch = microbatch(packed, args, image_tokens)
    modes = {name: (packed if name == "packed" else padded, MODES[name]) for name in args.modes}
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    tokens, errors = {}, {}
    expected: dict[str, Tensor] = {}
    for pair in range(args.pairs + 1):
        for name, (policy, loss) in modes.items():
            policy.zero_grad(set_to_none=True)
            before = _tokens(policy)
            spent, _ = measure(lambda policy=policy, loss=loss: loss(policy, batch).backward(), args.device)
            if pair:  # the first turn warms up and compares gradients
                seconds[name].append(spent)
                continue
            tokens[name] = _tokens(policy) - before
            if len(modes) == 1:
                continue
            found = {n: p.grad.float().cpu() for n, p in model.named_parameters() if p.grad is not None}
            expected = expected or found
            errors[name] = max(float((g - expected[n]).norm() / expected[n].norm()) for n, g in found.items())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(median.values()))
    return {
        name: {
            "seconds": median[name],
            "share_of_product_rate": flops(policy, batch, tokens[name]) / median[name] / rate,
            "speedup": first / median[name],
            "gradient_error": errors.get(name),
            "tokens": tokens[name],
        }
        for name, (policy, _) in modes.items()
    }


def _tokens(policy: Policy) -> int:
    counters = policy.backbone.counters
    return counters.train_prompt_tokens + counters.train_completion_tokens + counters.train_padded_tokens


def main() -> None:
    """Read the options, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="the first is the measure")
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--variable", action="store_true", help="lengths drawn up to --tokens, a quarter in the mean")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = build(args.shape, args.device)
    rate = product_rate(args.device, model.dtype)
    cases = {str(n): compare(model, processor, args, n, rate) for n in args.image_tokens}
    sizes = {name: getattr(args, name) for name in ("shape", "prompts", "group_size", "tokens", "variable", "pairs")}
    write_json(args.json, {"machine": machine(), "sizes": sizes, "products_per_second": rate, "cases": cases})
    unit = "CPU-seconds" if args.device == "cpu" else "seconds"
    print(f"{args.shape}, {args.prompts} x {args.group_size} x {args.tokens}, products at {rate / 1e9:.0f} GFLOP/s")
    print(f"{'image tokens':>12}  {'mode':<22}{unit:>12}{'speed':>8}{'of rate':>9}{'gradient error':>16}")
    for number, modes in cases.items():
        for name, row in modes.items():
            figures = f"{row['seconds']:>12.2f}{row['speedup']:>7.2f}x{row['share_of_product_rate']:>9.0%}"
            error = "-" if row["gradient_error"] is None else f"{row['gradient_error']:.1e}"
            print(f"{number:>12}  {name:<22}{figures}{error:>16}")


if __name__ == "__main__":
    main()
