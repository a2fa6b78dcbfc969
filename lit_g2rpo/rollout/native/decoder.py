"""The text model as one function of tokens, positions and a way to attend."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.head.tiles import factor_dtype
from lit_g2rpo.rollout.native.weights import read_layers

# (layer, queries [N, K, R, D], keys [N, K, D], values [N, K, D]) -> [N, K * R * D]; R query heads to a key head
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """Run the layers of a text model on flat rows of tokens, without the model's own code around them.

    Raises:
        UserError: if the model has a part that this decoder does not know.
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
        self.embedding, self.head = text.embed_tokens.weight, backbone.head
        self.norm, self.rotary = text.norm.weight, text.rotary_emb
        device, own = self.embedding.device.type, self.embedding.dtype
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        self.dtype: torch.dtype = torch.get_autocast_dtype(device) if autocast else own
        # Copies pay off on the CPU, where models are small; a large one on a device is called live, and so is one in
        # half precision, whose copies would be rounded in other places than in training.
        copied = device == "cpu" and self.dtype.itemsize >= 4
        self.layers = read_layers(text, copied)
        if copied:
            self.head = self.head.to(factor_dtype(self.head, self.head))

    @property
    def score_dtype(self) -> torch.dtype:
        """Type of attention's scores, float32 or wider."""
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
            images: indices of image tokens ``[n]``, and what each of the first layers adds there, ``[n, H]``; without
                indices it is added to all tokens, ``[N, H]``.

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
        # Two products and a sum, rounded one by one as in the model.
        return (x * cosine).add_(x.roll(x.shape[-1] // 2, -1).mul_(sine))

    def logits(self, hidden: Tensor) -> Tensor:
        """Score the next token: from ``[N, H]`` to ``[N, V]``, float32 or wider."""
        # The same types as in training, where logits of half precision would round log-probabilities by too much.
        dtype = factor_dtype(hidden, self.head)
        with torch.autocast(hidden.device.type, enabled=False):
            if dtype.itemsize < 4:
                return torch.mm(hidden.to(dtype), self.head.to(dtype).T, out_dtype=torch.float32)
            return linear(hidden.to(dtype), self.head.to(dtype))
