"""Compare `plan` with the memory that a process takes, on a policy of about 85 M parameters on the CPU.

python benchmarks/plan_accuracy.py --json plan_accuracy.json

Every case runs in its own process, whose allocator returns large blocks at once, so that resident memory follows
tensors. It measures two micro-batches of an optimizer step after the first, the step, and a rollout. Weights and
optimizer count, but libraries do not: the case runs once before it is measured.
"""

import argparse
import ctypes
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

# The C library reads this when a process starts, so it is set before the cases start theirs.
# oneDNN caches what it compiles for each shape.
os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "0"

import torch
from common import bench_processor, bench_prompts, machine, quiet, write_json
from peak import count_peak_anew, in_own_process, memory
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.planning.memory import RolloutSize, memory_table, totals
from lit_g2rpo.planning.simulation import MicrobatchSize, Phantom
from lit_g2rpo.planning.sizes import planned_model
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.memory_trial import PROBE

IMAGE_TOKENS, TEXT_TOKENS, GROUP, TOKENS, PROMPTS = 256, 30, 4, 160, 4
FROZEN: list[Any] = ["vision", "merger"]
CASES: list[dict[str, Any]] = [
    {"name": "all weights, float32, AdamW"},
    {"name": "the same, selective checkpointing", "activation_checkpointing": "selective"},
    {"name": "the same, full checkpointing", "activation_checkpointing": "full"},
    {"name": "the same, attention in two parts", "packed_attention": "two_part"},
    {"name": "bf16-mixed, AdamW", "mixed": True},
    {"name": "bfloat16 weights, Kahan's sum", "dtype": "bfloat16", "optimizer": "kahan"},
    {"name": "float32, states of eight bits, selective", "activation_checkpointing": "selective", "optimizer": "8bit"},
    {"name": "frozen tower, float32, AdamW", "freeze": FROZEN},
    {"name": "adapters, bf16-mixed on bfloat16", "freeze": FROZEN, "lora": True, "dtype": "bfloat16", "mixed": True},
    {"name": "adapters, full checkpointing", "lora": True, "activation_checkpointing": "full"},
]


def build(folder: str) -> None:
    """Save a random policy: 8 text layers of 768, 6 vision layers of 384, a vocabulary of 32,000."""
    processor = bench_processor()
    tokenizer = processor.tokenizer
    ids = tokenizer.get_vocab()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True, "mrope_section": [12, 10, 10]}
    text = {
        "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 8192,
        "rope_parameters": rope, "tie_word_embeddings": True, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "depth": 6, "hidden_size": 384, "intermediate_size": 1536, "num_heads": 6, "out_hidden_size": 768,
        "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 32**2,
        "deepstack_visual_indexes": [1, 2, 3],
    }  # fmt: skip
    places = {f"{name}_token_id": ids[f"<|{name}_pad|>"] for name in ("image", "video")}
    places |= {f"vision_{name}_token_id": ids[f"<|vision_{name}|>"] for name in ("start", "end")}
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **places)
    )
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def optimizer_of(kind: str, parameters: list[Any]) -> Any:
    """Make an optimizer: ``adamw``, ``kahan`` or ``8bit``."""
    if kind == "kahan":
        import optimi

        return optimi.AdamW(parameters, lr=1e-5)
    if kind == "8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, lr=1e-5)
    return torch.optim.AdamW(parameters, lr=1e-5)


def state_bytes(kind: str, dtype: torch.dtype) -> float:
    """Return the bytes of optimizer state per weight."""
    probe = torch.nn.Parameter(torch.zeros(PROBE, dtype=dtype))
    probe.grad = torch.zeros_like(probe)
    optimizer = optimizer_of(kind, [probe])
    optimizer.step()
    return sum(v.nbytes for v in optimizer.state[probe].values() if isinstance(v, torch.Tensor)) / PROBE


def planned(case: dict[str, Any], config: PolicyConfig) -> tuple[int, int, int]:
    """Get the bytes of each phase from `plan`."""
    dtype = getattr(torch, config.dtype)
    phantom = Phantom(*planned_model(config), config, "cpu", dtype, case.get("mixed", False))
    length = IMAGE_TOKENS + TEXT_TOKENS + 2
    side = 2 * round(IMAGE_TOKENS**0.5)
    size = MicrobatchSize(length, ((side, side),), ((TOKENS,) * GROUP,))
    kind = case.get("optimizer", "adamw")
    items = memory_table(
        phantom,
        Sharding("single device"),
        phantom.microbatch(size, GRPO(), gradients=True),
        RolloutSize(PROMPTS, GROUP, length, IMAGE_TOKENS, TOKENS, 512, None, RolloutConfig().prefill_mib),
        state_bytes={kind_: state_bytes(kind, kind_) for kind_ in (torch.float32, dtype)},
        temporaries=False,
        reference=False,
        features_mib=None,
    )
    return totals(items)


def resident(work: Any) -> tuple[int, Any]:
    """Return the peak resident memory of a call, bytes, and its result."""
    count_peak_anew()
    found = work()
    return memory("VmHWM"), found


def run(case: dict[str, Any]) -> dict[str, float]:
    """Measure one case in this process and plan it.

    Args:
        case: one of ``CASES``, and the folder of the policy.

    Returns:
        Planned and measured memory of each phase, GiB.
    """
    quiet()
    torch.set_num_threads(1)
    known = ("activation_checkpointing", "packed_attention", "dtype", "freeze")
    config = PolicyConfig(path=case["folder"], **{key: case[key] for key in known if key in case})
    config.lora = LoraConfig(rank=16, alpha=32) if case.get("lora") else None
    plan = planned(case, config)
    # memory that libraries load, compile or cache stays out of the figures
    peaks(case, config)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    start = memory("VmRSS")
    measured = [(peak - start) / 2**30 for peak in peaks(case, config)]
    return {"planned": [value / 2**30 for value in plan], "measured": measured}  # type: ignore[dict-item]


def peaks(case: dict[str, Any], config: PolicyConfig) -> tuple[int, int, int]:
    """Load the policy, learn, step and sample; return the process's peak in rollout, update and step, bytes."""
    policy = load_policy(config).train()
    optimizer = optimizer_of(case.get("optimizer", "adamw"), [p for p in policy.parameters() if p.requires_grad])
    prompts = bench_prompts(PROMPTS, IMAGE_TOKENS, TEXT_TOKENS)
    policy.prepare_features(prompts)
    count, zero = GROUP * TOKENS, torch.zeros(GROUP * TOKENS)
    fields = TokenFields(zero + 1, zero, None, zero + 1 / count, zero, torch.zeros(count, dtype=torch.long))
    tokens = [torch.randint(20, 200, (TOKENS,)) for _ in range(GROUP)]
    batch = Microbatch(prompts[:1] * GROUP, tokens, fields)

    def learn(passes: int = 2) -> None:
        for _ in range(passes):
            with torch.autocast("cpu", torch.bfloat16, enabled=case.get("mixed", False)):
                loss = policy.loss(batch, GRPO().token_loss)[0]
            loss.backward()  # type: ignore[no-untyped-call]

    def roll_out() -> None:
        engine = NativeEngine()
        engine.attach(policy)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.get("mixed", False)):
            engine.generate(prompts, GROUP, Sampling(TOKENS, 1.0, 1.0, 0, 0, 0))

    learn(1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    update, _ = resident(learn)
    step, _ = resident(optimizer.step)
    optimizer.zero_grad(set_to_none=True)
    rollout, _ = resident(roll_out)
    return rollout, update, step


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run(json.loads(arguments.only))))
        return
    print("| | rollout | micro-batch | optimizer step | planned / measured peak |\n|---|---|---|---|---|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        for case in CASES:
            result = in_own_process(__file__, case | {"folder": folder})
            results.append(case | result)
            if "skipped" in result:
                print(f"| {case['name']} | skipped: {result['skipped']} |", flush=True)
                continue
            cells = [f"{p:.2f} / {m:.2f}" for p, m in zip(result["planned"], result["measured"], strict=True)]
            ratio = max(result["planned"]) / max(result["measured"])
            print(f"| {case['name']} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    write_json(arguments.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
