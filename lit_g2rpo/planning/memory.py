"""Memory of a run on one device, item by item and phase by phase."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.planning.simulation import PassMemory, Phantom
from lit_g2rpo.rollout.native.engine import FIXED_SLOTS, PROMPT_MULTIPLE
from lit_g2rpo.rollout.native.prefill import token_bytes

PHASES = ("rollout", "micro-batch", "optimizer step")

BUCKET = 200_000_000
"""Elements of DeepSpeed's buckets under Lightning."""


@dataclass(slots=True, frozen=True)
class Item:
    """Something that takes memory.

    Args:
        name: what.
        bytes: of each phase, 0 where it is not there.
    """

    name: str
    bytes: tuple[int, int, int]


@dataclass(slots=True, frozen=True)
class RolloutSize:
    """What the engine holds.

    Args:
        prompts: prompts of this rank in a rollout.
        group_size: completions of each.
        prompt_tokens: longest prompt.
        image_tokens: image tokens of a prompt.
        completion_tokens: longest completion.
        max_rows: most rows held at a time.
        slots: rows decoded at a time where shapes are fixed; None for the engine's own choice.
        prefill_mib: most memory that prompts are read in at a time, MiB.
    """

    prompts: int
    group_size: int
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    max_rows: int
    slots: int | None
    prefill_mib: float


def weight_bytes(phantom: Phantom) -> int:
    """Memory of all weights in the type they compute from."""
    return sum(weight.nbytes for weight in phantom.parameters.values())


def rollout_bytes(phantom: Phantom, size: RolloutSize) -> tuple[int, int]:
    """Keys and values of a rollout, and what prefill and decoding work in.

    Args:
        size: what is held.

    Returns:
        Both, bytes.
    """
    text = phantom.base.config.text_config
    width = phantom.base.lm_head.weight.element_size()
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
        decoding += 2 * 4 * heads * (slots * size.completion_tokens + rows * room)
    read = token_bytes(text, width) * size.prompt_tokens
    if phantom.tower_learns:
        # features are not kept there, but made anew and held while their prompt is read
        read += feature_width(phantom) * size.image_tokens
    prefill = min(held * read, max(int(size.prefill_mib * 2**20), read))
    drawn = rows * size.completion_tokens * (8 + 8 + 4 + 4)
    copies = 0
    if phantom.device == "cpu":
        # the decoder's own of layers that compute in float32, and the head's, which always does
        layers = [] if phantom.autocast or width < 4 else phantom.base.model.language_model.layers.parameters()
        copies = sum(weight.nbytes for weight in layers if weight.ndim == 2)
        copies += phantom.base.lm_head.weight.numel() * 4 if width < 4 else 0
    return cache, max(decoding, prefill) + drawn + copies


def feature_bytes(phantom: Phantom, size: RolloutSize, limit_mib: float | None) -> int:
    """Image features that are kept for a rollout where the tower does not learn."""
    if phantom.tower_learns:
        return 0
    found = size.prompts * size.image_tokens * feature_width(phantom)
    return found if limit_mib is None else min(found, int(limit_mib * 2**20))


def feature_width(phantom: Phantom) -> int:
    """Bytes of the features of an image token, those of DeepStack included."""
    config = phantom.base.config
    layers = 1 + len(config.vision_config.deepstack_visual_indexes)
    width = 2 if phantom.autocast else phantom.base.lm_head.weight.element_size()
    return int(config.text_config.hidden_size * layers * width)


def pixel_bytes(phantom: Phantom, size: RolloutSize) -> int:
    """Pixels of a rollout's prompts, which wait in host memory: nothing on a device."""
    if phantom.device != "cpu":
        return 0
    vision = phantom.base.config.vision_config
    patches = size.prompts * size.image_tokens * vision.spatial_merge_size**2
    return int(4 * patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)


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
) -> list[Item]:
    """Add up what one device holds.

    Args:
        sharding: what ranks share.
        a_pass: forward and backward of a micro-batch.
        rollout: what the engine holds.
        state_bytes: optimizer state of one weight, by the type of the weight.
        temporaries: True if the optimizer's step makes a list of temporaries as large as one moment.
        reference: True if a second model is held.
        features_mib: most memory of kept image features; None for no limit.

    Returns:
        The items that take memory on the device.
    """
    whole = weight_bytes(phantom)
    counts: dict[torch.dtype, int] = {}
    for weight in phantom.learning:
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    trained = sum(counts.values())
    half = sharding.deepspeed and phantom.base.lm_head.weight.element_size() < 4
    kept = 0 if sharding.offload_weights else whole // sharding.share(sharding.weights)
    # What computes is gathered again: a layer, and the next one, ahead of time.
    layer = sum(weight.nbytes for weight in phantom.base.model.language_model.layers[0].parameters())
    ends = {
        id(w): w.nbytes for w in (phantom.base.lm_head.weight, phantom.base.model.language_model.embed_tokens.weight)
    }
    gathered = 2 * layer + sum(ends.values()) if sharding.weights else 0
    # Under DeepSpeed gradients are accumulated in float32, and the optimizer steps in it.
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
    cache, working = rollout_bytes(phantom, rollout)
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
        Item("keys and values of the rollout", (cache, 0, 0)),
        Item("prefill and decoding", (working, 0, 0)),
        Item("activations of a micro-batch", (0, a_pass.kept, 0)),
        Item("head and what is computed again", (0, a_pass.working, 0)),
    ]
    return [item for item in items if any(item.bytes)]


def totals(items: list[Item]) -> tuple[int, int, int]:
    """Memory of each phase.

    Returns:
        Their sums, bytes.
    """
    rollout, update, step = (sum(item.bytes[phase] for item in items) for phase in range(3))
    return rollout, update, step


def levers(config: Any, sharding: Sharding, optimizer: str) -> list[str]:
    """Say what makes a run smaller, what costs least first.

    Args:
        config: the policy's settings.
        sharding: what ranks share.
        optimizer: class path of the optimizer.

    Returns:
        One line each, what is in use already left out.
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
    """Say how adapters are asked for: by the fragment for the policy's size if there is one, else by their key.

    Args:
        path: the ``path`` of the policy's config.

    Returns:
        Words of the command line.
    """
    size = re.search(r"Qwen3-VL-(\d+B)", path)
    fragment = Path("configs", "model", f"qwen3_vl_{size[1].lower()}_lora.yaml") if size else None
    return f"--model.policy {fragment}" if fragment and fragment.is_file() else "--model.policy.lora '{rank: 32}'"
