"""The text model as one function of tokens, positions and an attention, with weights arranged for decoding."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.head.tiles import factor_dtype


class Layer(Protocol):
    """One decoder layer on ``N`` tokens; ``x [N, H]`` is the residual stream."""

    def qkv(self, x: Tensor) -> Tensor:
        """Apply norm and projection: query heads, key heads and value heads side by side, ``[N, (Q + 2 K) * D]``."""

    def norm_heads(self, heads: Tensor) -> Tensor:
        """Norm each query and key head, ``[N, Q + K, D]``."""

    def output(self, x: Tensor, read: Tensor) -> Tensor:
        """Add the output of attention, ``[N, Q * D]``, to the stream."""

    def mlp(self, x: Tensor) -> Tensor:
        """Add the MLP's output to the stream."""


def read_layers(text: Any, dtype: torch.dtype, copied: bool, merged: bool) -> list[Layer]:
    """Read the decoder layers of a text model.

    Args:
        dtype: dtype of the products' factors.
        copied: copy all weights, which is fastest if they are small.
        merged: otherwise, merge adapters.

    Raises:
        UserError: if a linear layer is of a kind that cannot be copied.
    """
    return [CopiedLayer(layer) if copied else HeldLayer(layer, dtype, merged) for layer in text.layers]


class HeldLayer(Layer):
    """Hold a layer's weights as they are multiplied, so that no token casts one or adds an adapter's share.

    Mixed precision and adapters take a copy; other weights are the live ones. The model's weights are not changed.

    Args:
        dtype: dtype of the products' factors.
        merged: merge adapters; otherwise layers with adapters are called as they are.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, merged: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._heads = _head_scales(attention)
        self._qkv = [_held(part, dtype, merged) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self._output = _held(attention.o_proj, dtype, merged)
        parts = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self._gate, self._up, self._down = (_held(part, dtype, merged) for part in parts)
        self._activation = mlp.act_fn

    @override
    def qkv(self, x: Tensor) -> Tensor:
        x = self._norms[0](x)
        return torch.cat([project(x) for project in self._qkv], -1)

    @override
    def norm_heads(self, heads: Tensor) -> Tensor:
        return self._heads * rms_norm(heads, heads.shape[-1:], None, self._norms[0].variance_epsilon)

    @override
    def output(self, x: Tensor, read: Tensor) -> Tensor:
        return x + self._output(read)

    @override
    def mlp(self, x: Tensor) -> Tensor:
        normed = self._norms[1](x)
        return x + self._down(self._activation(self._gate(normed)) * self._up(normed))


class CopiedLayer(Layer):
    """Copy a layer's weights as ``[in, out]``, fused, with adapters and norm scales merged in.

    With 1 to 64 rows, such products take 0.5 to 0.9 of the time of `linear`.

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
    """Divide by the RMS norm's divisor times the square root of the size: 3 calls instead of 7."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), eps)


def _fused(scale: Tensor, *weights: Tensor) -> Tensor:
    """Join weights ``[out, H]`` after a norm of ``scale [H]`` into ``[H, sum out]``."""
    return torch.cat([weight.T for weight in weights], 1).mul_(scale[:, None] * len(scale) ** 0.5)


def _head_scales(attention: Any) -> Tensor:
    """Return the norm scales of all query and key heads, ``[Q + K, D]``."""
    config = attention.config
    queries = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    return torch.cat([queries, attention.k_norm.weight.expand(config.num_key_value_heads, -1)])


def _held(layer: Any, dtype: torch.dtype, merged: bool) -> Callable[[Tensor], Tensor]:
    """Return a linear layer as a function with its weight in a dtype; one of another kind is called as it is."""
    if not (_is_known(layer) if merged else type(layer) is nn.Linear):
        live: Callable[[Tensor], Tensor] = layer
        return live
    weight, bias = _weight(layer)
    return partial(linear, weight=weight.to(dtype), bias=None if bias is None else bias.to(dtype))


def _is_known(layer: Any) -> bool:
    # peft's layers are untyped
    return type(layer) is nn.Linear or (hasattr(layer, "get_delta_weight") and _is_known(layer.get_base_layer()))


def _weight(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Read weight and bias of a linear layer, with its enabled adapters merged in."""
    if not _is_known(layer):
        raise UserError(
            f"model.rollout.engine 'native' cannot copy the weight of a {type(layer).__name__}; use 'huggingface'"
        )
    if type(layer) is nn.Linear:
        return layer.weight, layer.bias
    weight, bias = _weight(layer.get_base_layer())
    if not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight, bias


# (layer, queries [N, K, R, D], keys [N, K, D], values [N, K, D]) -> [N, K * R * D]; R query heads to a key head
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """Run the layers of a text model on flat rows of tokens, without the model's own code around them.

    Raises:
        UserError: if the model has a part that this decoder does not support.
    """

    def __init__(self, backbone: Backbone) -> None:
        text, config = backbone.text, backbone.text.config
        kind, rope = backbone.model.config.model_type, config.rope_parameters["rope_type"]
        if not backbone.family.native_decoder or rope in ("dynamic", "longrope"):
            raise UserError(f"model.rollout.engine 'native' knows no {kind} with {rope} rope; use 'huggingface'")
        self.key_heads: int = config.num_key_value_heads
        self.repeats: int = config.num_attention_heads // config.num_key_value_heads
        self.head_dim: int = text.layers[0].self_attn.head_dim
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = text.embed_tokens.weight
        self.norm, self.rotary = text.norm.weight, text.rotary_emb
        device, own = self.embedding.device.type, self.embedding.dtype
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        self.dtype: torch.dtype = torch.get_autocast_dtype(device) if autocast else own
        # Fused copies pay off on the CPU, where models are small. A device has no room for them beside a large model,
        # and in half precision they would be rounded in other places than in training.
        # Merging saves a device two thirds of its calls, but rounds once more, which does not pay off on the CPU.
        copied = device == "cpu" and self.dtype.itemsize >= 4
        self.layers = read_layers(text, self.dtype, copied, merged=device != "cpu")
        self.head = backbone.head.to(factor_dtype(self.embedding, backbone.head))

    @property
    def score_dtype(self) -> torch.dtype:
        """Return the dtype of attention scores, float32 or wider."""
        return torch.promote_types(self.dtype, torch.float32)

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the tables of rotary embedding.

        Args:
            positions: ``[3, N]`` long.

        Returns:
            Cosine, and sine with the sign of the rotation folded in, ``[N, 1, D]`` each.
        """
        cosine, sine = self.rotary(self.embedding, positions[:, None])
        sign = torch.ones_like(sine[0, :1])
        sign[:, : self.head_dim // 2] = -1
        return cosine[0, :, None], (sine[0] * sign)[:, None]

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Attend,
        images: tuple[Tensor | None, list[Tensor]] | None = None,
    ) -> Tensor:
        """Run all layers.

        Args:
            x: embeddings, ``[N, H]``.
            rotation: tables for the ``N`` positions.
            attend: attention of a layer.
            images: indices of image tokens ``[n]``, and the features that each of the first layers adds there,
                ``[n, H]``; without indices they are added to all tokens, ``[N, H]``.

        Returns:
            Hidden states after the final norm, ``[N, H]``.
        """
        count, heads = len(x), self.repeats * self.key_heads
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(x).view(count, -1, self.head_dim)
            rotated, value = qkv.split_with_sizes([heads + self.key_heads, self.key_heads], 1)
            rotated = self._rotate(layer.norm_heads(rotated), *rotation).to(self.dtype)
            query, key = rotated.split_with_sizes([heads, self.key_heads], 1)
            query = query.view(count, self.key_heads, self.repeats, self.head_dim)
            x = layer.mlp(layer.output(x, attend(i, query, key, value)))
            if images is not None and i < len(images[1]):
                added = images[1][i].to(x.dtype)
                x = x + added if images[0] is None else x.index_add_(0, images[0], added)
        hidden: Tensor = self.norm * rms_norm(x, x.shape[-1:], None, self.eps)
        return hidden

    @staticmethod
    def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        # Two products and a sum, rounded separately as in the model.
        return (x * cosine).add_(x.roll(x.shape[-1] // 2, -1).mul_(sine))

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the logits of the next token: from ``[N, H]`` to ``[N, V]``, float32 or wider."""
        # The same dtypes as in training, where half-precision logits would round log-probabilities too much.
        hidden = hidden.to(self.head.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            if self.head.dtype.itemsize < 4:
                return torch.mm(hidden, self.head.T, out_dtype=torch.float32)
            return linear(hidden, self.head)
