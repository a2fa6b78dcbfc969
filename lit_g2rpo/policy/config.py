"""Settings of the policy."""

from dataclasses import dataclass, field
from typing import Literal

Part = Literal["vision", "merger", "language"]


@dataclass(slots=True)
class LoraConfig:
    """Low-rank adapters on the language model; the reference is then the policy with the adapters off.

    Args:
        rank: rank of the adapters.
        alpha: scale of the adapters; the update is multiplied by alpha / rank.
        dropout: dropout on the adapters' input.
        targets: names of the linear layers that get an adapter.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass(slots=True)
class PolicyConfig:
    """Where the policy comes from and which parts of it learn.

    Args:
        path: a folder, a hub name, or ``package:<module>/<folder>`` for a folder inside an installed package.
        dtype: type of the weights.
        attention: attention implementation of transformers.
        freeze: parts that do not learn.
        lr_scale: learning rate of a part as a multiple of the optimizer's; 1 for parts not named.
        lora: train low-rank adapters instead of the weights.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        min_pixels: smallest image area, pixels; null keeps the processor's own.
        max_pixels: largest image area, pixels; null keeps the processor's own.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str = "sdpa"
    freeze: list[Part] = field(default_factory=list)
    lr_scale: dict[Part, float] = field(default_factory=dict)
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
