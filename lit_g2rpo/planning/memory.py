"""Memory of a run on one device, item by item and phase by phase."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.planning.simulation import PassMemory, Phantom
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rollout.native.engine import FIXED_SLOTS, PROMPT_MULTIPLE
from lit_g2rpo.rollout.native.prefill import token_bytes

PHASES = ("rollout", "micro-batch", "optimizer step")

BUCKET = 200_000_000
"""Number of elements in DeepSpeed's buckets under Lightning."""


@dataclass(slots=True, frozen=True)
class Item:
    """An item that takes memory.

    Args:
        name: name of the item.
        bytes: bytes in each phase, 0 if absent.
    """

    name: str
    bytes: tuple[int, int, int]


@dataclass(slots=True, frozen=True)
class RolloutSize:
    """Sizes of a rollout in the engine.

    Args:
        prompts: prompts of this rank in a rollout.
        group_size: completions per prompt.
        prompt_tokens: longest prompt.
        image_tokens: image tokens per prompt.
        completion_tokens: longest completion.
        max_rows: most rows held at a time.
        slots: rows decoded at a time if shapes are fixed; None for the engine's own choice.
        prefill_mib: most memory for reading prompts at a time, MiB.
    """

    prompts: int
    group_size: int
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    max_rows: int
    slots: int | None
    prefill_mib: float


@dataclass(slots=True, frozen=True)
class EngineCopy:
    """Memory that an engine's own copy of the policy takes on a device.

    Args:
        weights: bytes of its weights.
        cache: bytes of its keys and values.
        workspace: bytes of its activations and graphs.
        resident: True if all of it stays while the trainer learns.
    """

    weights: int
    cache: int
    workspace: int
    resident: bool


def weight_bytes(phantom: Phantom, computing: bool = False) -> int:
    """Sum all weights, as they are kept or in the type that matrix products are computed in."""
    return sum(
        weight.numel() * (2 if computing and phantom.autocast else weight.element_size())
        for weight in phantom.parameters.values()
    )


def cache_bytes(phantom: Phantom) -> int:
    """Count the bytes of a token's keys and values in all layers."""
    text = phantom.backbone.text.config
    width = 2 if phantom.autocast else phantom.backbone.head.element_size()
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * width)


def rollout_bytes(phantom: Phantom, size: RolloutSize) -> tuple[int, int]:
    """Sum the keys and values of a rollout, and the working memory of prefill and decoding.

    Returns:
        Both, in bytes.
    """
    backbone, text = phantom.backbone, phantom.backbone.text.config
    width = backbone.head.element_size()
    held = min(max(size.max_rows // size.group_size, 1), size.prompts)
    rows = held * size.group_size
    fixed = size.slots or (None if phantom.device == "cpu" else FIXED_SLOTS)
    room = -(-size.prompt_tokens // PROMPT_MULTIPLE) * PROMPT_MULTIPLE if fixed else size.prompt_tokens
    slots = min(fixed or size.max_rows, rows)
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * width
    cache = per_token * (held * room + slots * size.completion_tokens)
    heads = text.num_attention_heads
    # Logits, probabilities and their running sum in float64; then scores of own tokens and, without the CPU's fused
    # kernel, of prompts.
    decoding = slots * text.vocab_size * (3 * 4 + 2 * 8)
    if phantom.device != "cpu":
        decoding += 2 * 4 * heads * (slots * size.completion_tokens + min(held, slots) * size.group_size * room)
    read = token_bytes(text, width) * size.prompt_tokens
    if backbone.tower_learns:
        # there, features are not kept but recomputed, and held while their prompt is read
        read += feature_width(phantom) * size.image_tokens
    prefill = min(held * read, max(int(size.prefill_mib * 2**20), read))
    drawn = rows * size.completion_tokens * (8 + 8 + 4 + 4)
    return cache, max(decoding, prefill) + drawn + held_bytes(phantom)


def held_bytes(phantom: Phantom) -> int:
    """Sum the weights that the decoder holds beside the model's own: cast, with adapters merged, or fused."""
    own = phantom.backbone.head.element_size()
    width = 2 if phantom.autocast else own
    fused = phantom.device == "cpu" and width >= 4
    copied = [
        weight.numel()
        for name, weight in phantom.backbone.layers.named_parameters()
        if weight.ndim == 2
        and "lora_" not in name
        and (fused or (phantom.device != "cpu" if ".base_layer." in name else width != own))
    ]
    # on the CPU, the head computes in float32 or wider
    head = max(width, 4) if phantom.device == "cpu" else width
    return width * sum(copied) + (head * phantom.backbone.head.numel() if head != own else 0)


def feature_bytes(phantom: Phantom, size: RolloutSize, limit_mib: float | None) -> int:
    """Sum the image features that are kept for a rollout if the tower is frozen."""
    if phantom.backbone.tower_learns:
        return 0
    found = size.prompts * size.image_tokens * feature_width(phantom)
    return found if limit_mib is None else min(found, int(limit_mib * 2**20))


def feature_width(phantom: Phantom) -> int:
    """Count the bytes of an image token's features on all levels."""
    backbone = phantom.backbone
    width = 2 if phantom.autocast else backbone.head.element_size()
    return int(backbone.text.config.hidden_size * backbone.image_sizes.levels * width)


def pixel_bytes(phantom: Phantom, size: RolloutSize) -> int:
    """Sum the pixels of a rollout's prompts, which wait in host memory: 0 on a device."""
    if phantom.device != "cpu":
        return 0
    sizes = phantom.backbone.image_sizes
    patches = size.prompts * size.image_tokens * sizes.merge**2
    return int(4 * patches * sizes.values)


def memory_table(
    phantom: Phantom,
    sharding: Sharding,
    a_pass: PassMemory,
    rollout: RolloutSize,
    *,
    state_bytes: dict[torch.dtype, float],
    temporaries: bool,
    reference: bool,
    features_mib: float | None,
    copy: EngineCopy | None = None,
) -> list[Item]:
    """List the items in one device's memory.

    Args:
        a_pass: forward and backward of a micro-batch.
        state_bytes: bytes of optimizer state per weight, by the weight's dtype.
        temporaries: True if the optimizer's step makes a list of temporaries as large as one moment.
        reference: True if a reference model is also held.
        features_mib: most memory for kept image features, MiB; None for no limit.
        copy: the engine's own copy of the policy, if it has one here.
    """
    whole = weight_bytes(phantom)
    counts: dict[torch.dtype, int] = {}
    for weight in phantom.learning:
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    trained = sum(counts.values())
    half = sharding.deepspeed and phantom.backbone.head.element_size() < 4
    kept = 0 if sharding.offload_weights else whole // sharding.share(sharding.weights)
    # The computing layer is gathered, and the next one ahead of time.
    layer = sum(weight.nbytes for weight in phantom.backbone.layers[0].parameters())
    ends = {id(w): w.nbytes for w in (phantom.backbone.head, *phantom.backbone.embedding.parameters())}
    gathered = 2 * layer + sum(ends.values()) if sharding.weights else 0
    # DeepSpeed accumulates gradients and runs the optimizer step in float32.
    width = {dtype: 4 if sharding.deepspeed else dtype.itemsize for dtype in counts}
    whole_gradients = sum(width[dtype] * count for dtype, count in counts.items())
    gradients = whole_gradients // sharding.share(sharding.gradients)
    if sharding.deepspeed:
        state = int(trained * (state_bytes[torch.float32] + (4 if half else 0)))
    else:
        state = int(sum(state_bytes[dtype] * count for dtype, count in counts.items()))
    state //= sharding.share(sharding.optimizer)
    buffers = 3 * min(BUCKET, trained) * 2 if sharding.deepspeed else gradients if sharding.copies_gradients else 0
    if temporaries:
        step = whole_gradients // sharding.share(sharding.optimizer)
    else:
        step = 2 * max(width[weight.dtype] * weight.numel() for weight in phantom.learning)
    on_device = 0 if sharding.offload_optimizer else 1
    cache, working = (copy.cache, copy.workspace) if copy else rollout_bytes(phantom, rollout)
    stays = copy is not None and copy.resident
    features = feature_bytes(phantom, rollout, features_mib)
    second = whole // sharding.share(sharding.weights) if reference else 0
    items = [
        Item("weights", (whole if sharding.weights else kept, kept, kept)),
        Item("weights gathered from other ranks", (kept if sharding.weights else 0, gathered, 0)),
        Item("gradients", (0, gradients, gradients)),
        Item("gradient buckets", (buffers,) * 3),
        Item("optimizer state", (state * on_device,) * 3),
        Item("optimizer's temporaries", (0, 0, step * on_device)),
        Item("reference", (second,) * 3),
        Item("pixels of prompts", (pixel_bytes(phantom, rollout),) * 3),
        Item("image features", (features,) * 3),
        Item("the engine's weights", _phases(copy.weights if copy else 0, stays)),
        Item("keys and values of the rollout", _phases(cache, stays)),
        Item("prefill and decoding", _phases(working, stays)),
        Item("activations of a micro-batch", (0, a_pass.kept, 0)),
        Item("head and what is computed again", (0, a_pass.working, 0)),
    ]
    return [item for item in items if any(item.bytes)]


def _phases(count: int, stays: bool) -> tuple[int, int, int]:
    """Return the bytes, in the rollout alone or in each phase."""
    return (count,) * 3 if stays else (count, 0, 0)


def totals(items: list[Item]) -> tuple[int, int, int]:
    """Sum each phase, in bytes."""
    rollout, update, step = (sum(item.bytes[phase] for item in items) for phase in range(3))
    return rollout, update, step


def levers(config: PolicyConfig, sharding: Sharding, optimizer: str) -> list[str]:
    """List changes that reduce a run's memory, one line each, cheapest first, without those already in use.

    Args:
        optimizer: class path of the optimizer.
    """
    found = []
    if config.activation_checkpointing != "full":
        better = "selective or full" if config.activation_checkpointing == "off" else "full"
        found.append(f"--model.policy.activation_checkpointing {better}: a forward more, a fraction of the activations")
    found.append("more model.update.microbatches (and as many more trainer.accumulate_grad_batches): shorter passes")
    found.append("smaller model.rollout.max_rows: fewer keys and values at a time")
    if config.lora is None:
        found.append(f"{adapters(config.path)}: adapters instead of all weights")
        if "8bit" not in optimizer:
            found.append("--model.optimizer configs/optimizer/eight_bit.yaml: optimizer state of 2 bytes a weight")
    if not sharding.weights:
        found.append("--trainer configs/strategy/deepspeed_zero3.yaml or fsdp2.yaml: weights shared by all devices")
    if not sharding.offload_optimizer:
        found.append("--trainer configs/strategy/deepspeed_zero3_offload.yaml: weights and state in host memory")
    return found


def adapters(path: str) -> str:
    """Return the command-line option for adapters: the fragment for the policy's size if there is one."""
    size = re.search(r"Qwen3-VL-(\d+B)", path)
    fragment = Path("configs", "model", f"qwen3_vl_{size[1].lower()}_lora.yaml") if size else None
    return f"--model.policy {fragment}" if fragment and fragment.is_file() else "--model.policy.lora '{rank: 32}'"
