"""Settings of the policy."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from lit_g2rpo.errors import UserError

Part = Literal["vision", "merger", "language"]
Shapes = Literal["exact", "static"]


@dataclass(slots=True)
class LoraConfig:
    """Low-rank adapters; the reference is then the policy with the adapters off.

    Args:
        rank: rank of the adapters.
        alpha: scale of the adapters, whose update is multiplied by alpha / rank.
        dropout: dropout on the adapters' input.
        targets: names of the language model's linear layers that get an adapter.
        vision: also add adapters to the linear layers of the vision tower's blocks.

    Raises:
        UserError: if a number is out of range, or no layer is named.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    vision: bool = False

    def __post_init__(self) -> None:
        for key in ("rank", "alpha"):
            if getattr(self, key) < 1:
                raise UserError(f"model.policy.lora.{key} is {getattr(self, key)}; it must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"model.policy.lora.dropout is {self.dropout}; give a share from 0 to below 1, such as 0.05"
            )
        if not self.targets:
            raise UserError("model.policy.lora.targets is empty; name linear layers, such as q_proj and v_proj")


@dataclass(slots=True)
class PolicyConfig:
    """Where the policy comes from, and which parts of it are trained.

    Args:
        path: a folder, a hub name, or ``package:<module>/<folder>`` for a folder inside an installed package.
        family: model family, by short name or as ``package.module.Name``; null to use the checkpoint's model_type.
        dtype: type of the weights.
        attention: attention implementation of transformers, for the vision tower and for padded rows.
        packing: train on packed sequences, in which a group shares one prompt; false for padded rows, each with its
            prompt.
        packed_attention: attention of packed groups: ``merged`` (CPU kernels), ``two_part`` (anywhere), ``flex``
            (flex attention, CUDA only); null for ``merged`` on the CPU and ``two_part`` elsewhere.
        shapes: tensor shapes: ``exact``, from the lengths of prompts and completions, or ``static``, padded to a few
            sizes, for devices that compile for each shape; null for ``static`` on those and ``exact`` elsewhere.
        freeze: parts that are not trained.
        lr_scale: learning rate of a part as a multiple of the optimizer's; 1 for parts not named.
        lora: train low-rank adapters instead of the weights.
        activation_checkpointing: what the backward pass recomputes to save memory: nothing with ``off``, everything
            except matrix products and attention with ``selective``, whole layers with ``full``.
        features_on_device_mib: maximum device memory for kept image features, MiB; the rest is kept in host memory;
            null for no limit.
        min_pixels: smallest image area, pixels; null keeps the processor's own.
        max_pixels: largest image area, pixels; null keeps the processor's own.

    Raises:
        UserError: if a number is out of range, or a part is not one.
    """

    path: str
    family: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str = "sdpa"
    packing: bool = True
    packed_attention: Literal["merged", "two_part", "flex"] | None = None
    shapes: Shapes | None = None
    freeze: list[Part] = field(default_factory=list)
    lr_scale: dict[Part, float] = field(default_factory=dict)
    lora: LoraConfig | None = None
    activation_checkpointing: Literal["off", "selective", "full"] = "off"
    features_on_device_mib: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for part, scale in self.lr_scale.items():
            where = f"model.policy.lr_scale.{part}"
            if part not in get_args(Part):
                raise UserError(f"{where}: there is no such part; the parts are {', '.join(get_args(Part))}")
            if not 0 < scale < math.inf:
                raise UserError(
                    f"{where} is {scale}; it must be above 0; model.policy.freeze keeps a part from learning"
                )
        for key in ("min_pixels", "max_pixels"):
            if (pixels := getattr(self, key)) is not None and pixels < 1:
                raise UserError(f"model.policy.{key} is {pixels}; it must be 1 or more")
        if self.features_on_device_mib is not None and not self.features_on_device_mib >= 0:
            raise UserError(
                f"model.policy.features_on_device_mib is {self.features_on_device_mib}; it must be 0, which keeps none "
                "there, or more"
            )
