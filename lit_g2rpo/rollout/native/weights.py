"""The layers of the text model as the decoder wants them: live modules, or copies of their weights."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from typing_extensions import override

from lit_g2rpo.errors import UserError


class Layer(Protocol):
    """One decoder layer on ``N`` tokens; ``x [N, H]`` is the residual stream."""

    def qkv(self, x: Tensor) -> Tensor:
        """Norm and project: query heads, key heads and value heads side by side, ``[N, (Q + 2 K) * D]``."""

    def norm_heads(self, heads: Tensor) -> Tensor:
        """Norm each query and key head, ``[N, Q + K, D]``."""

    def output(self, x: Tensor, read: Tensor) -> Tensor:
        """Add what was read, ``[N, Q * D]``, to the stream."""

    def mlp(self, x: Tensor) -> Tensor:
        """Add the MLP of the stream to it."""


def read_layers(text: Any, copied: bool) -> list[Layer]:
    """Read the decoder layers of a text model.

    Args:
        copied: copy the weights, which is fastest where they are small; otherwise call the live modules, so that an
            update in place is seen without a copy.

    Raises:
        UserError: if a linear layer is of a kind that cannot be copied.
    """
    return [CopiedLayer(layer) if copied else LiveLayer(layer) for layer in text.layers]


class LiveLayer(Layer):
    """Call the modules of a layer."""

    def __init__(self, layer: Any) -> None:
        self._attention, self._mlp = layer.self_attn, layer.mlp
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._heads = _head_scales(layer.self_attn)

    @override
    def qkv(self, x: Tensor) -> Tensor:
        attention, x = self._attention, self._norms[0](x)
        return torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], -1)

    @override
    def norm_heads(self, heads: Tensor) -> Tensor:
        return self._heads * rms_norm(heads, heads.shape[-1:], None, self._norms[0].variance_epsilon)

    @override
    def output(self, x: Tensor, read: Tensor) -> Tensor:
        added: Tensor = x + self._attention.o_proj(read)
        return added

    @override
    def mlp(self, x: Tensor) -> Tensor:
        added: Tensor = x + self._mlp(self._norms[1](x))
        return added


class CopiedLayer(Layer):
    """Copy a layer's weights: fused, adapters merged in, scale of norms folded in, laid out ``[in, out]``.

    With 1 to 64 rows such products take 0.5 to 0.9 of the time of `linear`.

    Args:
        layer: the layer, in float32 or wider.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp, eps = layer.self_attn, layer.mlp, layer.input_layernorm.variance_epsilon
        before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        parts = [_weight(projection) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self._qkv = _fused(before, *(weight for weight, _ in parts))
        biases = [bias for _, bias in parts if bias is not None]
        self._qkv_bias = torch.cat(biases) if biases else None
        output, self._output_bias = _weight(attention.o_proj)
        self._output = output.T.contiguous()
        self._gate_up = _fused(after, _weight(mlp.gate_proj)[0], _weight(mlp.up_proj)[0])
        self._down, self._activation = _weight(mlp.down_proj)[0].T.contiguous(), mlp.act_fn
        self._eps, self._head_eps = (
            (eps * size) ** 0.5 * before.new_ones(()) for size in (len(before), attention.head_dim)
        )
        self._heads = _head_scales(attention) * attention.head_dim**0.5

    @override
    def qkv(self, x: Tensor) -> Tensor:
        x = _unit(x, self._eps)
        return torch.mm(x, self._qkv) if self._qkv_bias is None else torch.addmm(self._qkv_bias, x, self._qkv)

    @override
    def norm_heads(self, heads: Tensor) -> Tensor:
        return _unit(heads, self._head_eps).mul_(self._heads)

    @override
    def output(self, x: Tensor, read: Tensor) -> Tensor:
        added = torch.addmm(x, read, self._output)
        return added if self._output_bias is None else added + self._output_bias

    @override
    def mlp(self, x: Tensor) -> Tensor:
        gate, up = torch.mm(_unit(x, self._eps), self._gate_up).chunk(2, -1)
        return torch.addmm(x, self._activation(gate).mul_(up), self._down)


def _unit(x: Tensor, eps: Tensor) -> Tensor:
    """Divide by the square root of the size times what an RMS norm divides by: 3 calls in place of 7."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), eps)


def _fused(scale: Tensor, *weights: Tensor) -> Tensor:
    """Lay weights ``[out, H]`` side by side behind a norm of ``scale [H]``, ``[H, sum out]``."""
    return torch.cat([weight.T for weight in weights], 1).mul_(scale[:, None] * len(scale) ** 0.5)


def _head_scales(attention: Any) -> Tensor:
    """Find the scale of the norms of all query and key heads, ``[Q + K, D]``."""
    config = attention.config
    queries = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    return torch.cat([queries, attention.k_norm.weight.expand(config.num_key_value_heads, -1)])


def _weight(module: Any) -> tuple[Tensor, Tensor | None]:
    """Read weight and bias of a linear layer, with its adapters merged in where they are on."""
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
