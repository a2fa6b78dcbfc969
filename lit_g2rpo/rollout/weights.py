"""The weights of the text model as the decoder wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lit_g2rpo.errors import UserError

Linear = Callable[[Tensor], Tensor]

PACKED_FOR = 64
"""Rows that packed weights are laid out for; other numbers of rows work as well, and nearly as fast."""


@dataclass(slots=True, frozen=True)
class Layer:
    """One decoder layer, its query heads ordered so that those of one group of keys lie apart.

    Args:
        input_norm: scale of the norm before attention, ``[H]``.
        qkv: hidden states to queries, keys and values side by side.
        query_norm: scale of the norm of each query head, ``[D]``.
        key_norm: scale of the norm of each key head, ``[D]``.
        output: heads to hidden states.
        post_norm: scale of the norm before the MLP, ``[H]``.
        gate_up: hidden states to gate and up side by side.
        activation: of the gate.
        down: to hidden states.
    """

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor
    key_norm: Tensor
    output: Linear
    post_norm: Tensor
    gate_up: Linear
    activation: Linear
    down: Linear


def read_layers(text: Any, copied: bool) -> list[Layer]:
    """Read the decoder layers of a text model.

    Args:
        text: the text model.
        copied: fuse copies of the weights, adapters merged in, which is fastest where weights are small; otherwise call
            the live modules, so that an update in place is seen without a copy.

    Returns:
        The layers.

    Raises:
        UserError: if a linear layer is of a kind that cannot be copied.
    """
    heads = text.config.num_key_value_heads, text.config.num_attention_heads // text.config.num_key_value_heads
    return [_layer(layer, heads, _copied if copied else _live) for layer in text.layers]


def _layer(layer: Any, heads: tuple[int, int], projections: Callable[..., tuple[Linear, ...]]) -> Layer:
    attention = layer.self_attn
    qkv, output, gate_up, down = projections(attention, layer.mlp, heads)
    return Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=qkv,
        query_norm=attention.q_norm.weight,
        key_norm=attention.k_norm.weight,
        output=output,
        post_norm=layer.post_attention_layernorm.weight,
        gate_up=gate_up,
        activation=layer.mlp.act_fn,
        down=down,
    )


def _copied(attention: Any, mlp: Any, heads: tuple[int, int]) -> tuple[Linear, ...]:
    query, query_bias = _weight(attention.q_proj)
    output, output_bias = _weight(attention.o_proj)
    key_value = [_weight(attention.k_proj), _weight(attention.v_proj)]
    qkv = [(_apart(query, heads), None if query_bias is None else _apart(query_bias, heads)), *key_value]
    return (
        _fused(*qkv),
        _fused((_apart(output.T, heads).T.contiguous(), output_bias)),
        _fused(_weight(mlp.gate_proj), _weight(mlp.up_proj)),
        _fused(_weight(mlp.down_proj)),
    )


def _live(attention: Any, mlp: Any, heads: tuple[int, int]) -> tuple[Linear, ...]:
    def qkv(x: Tensor) -> Tensor:
        return torch.cat([_apart(attention.q_proj(x).T, heads).T, attention.k_proj(x), attention.v_proj(x)], -1)

    def output(x: Tensor) -> Tensor:
        together: Tensor = attention.o_proj(_apart(x.T, heads[::-1]).T)
        return together

    return qkv, output, lambda x: torch.cat([mlp.gate_proj(x), mlp.up_proj(x)], -1), mlp.down_proj


def _apart(x: Tensor, heads: tuple[int, int]) -> Tensor:
    """Reorder heads in the first dimension from (a, b) to (b, a)."""
    return x.reshape(*heads, -1, *x.shape[1:]).transpose(0, 1).reshape(x.shape)


def _fused(*parts: tuple[Tensor, Tensor | None]) -> Linear:
    weight = torch.cat([weight for weight, _ in parts])
    bias = None if parts[0][1] is None else torch.cat([bias for _, bias in parts if bias is not None])
    packable = weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not packable or torch.is_autocast_enabled("cpu"):
        return partial(linear, weight=weight, bias=bias)
    # oneDNN's own layout: 1.1 (192 rows) to 2 times (8 rows) as fast as the product that `linear` takes.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _weight(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, with its adapters merged in where they are on."""
    if type(module) is nn.Linear:
        return module.weight, module.bias
    if not hasattr(module, "get_delta_weight"):
        raise UserError(
            f"model.rollout.engine 'native' cannot copy the weight of a {type(module).__name__}; use 'huggingface'"
        )
    weight, bias = _weight(module.get_base_layer())
    if not module.disable_adapters and not module.merged:
        for name in module.active_adapters:
            weight = weight + module.get_delta_weight(name)
    return weight, bias
