"""Keys and values: of prompts, shared by their completions, and of each completion's own tokens."""

import torch
from torch import Tensor

from lit_g2rpo.rollout.attention import merge_parts, part_attention
from lit_g2rpo.rollout.decoder import Decoder


class PromptCache:
    """Keys and values of prompts.

    Args:
        decoder: the text model.
        lengths: tokens of each prompt, ``P`` of them.
        width: tokens that a prompt has room for.
    """

    def __init__(self, decoder: Decoder, lengths: list[int], width: int) -> None:
        self._memory = _memory(decoder, len(lengths), width)
        self.keys, self.values = self._memory.unbind(1)[0].unbind(), self._memory.unbind(1)[1].unbind()
        self.bias: Tensor | None = None
        if min(lengths) < width:
            device = decoder.embedding.device
            outside = torch.arange(width, device=device) >= torch.tensor(lengths, device=device)[:, None]
            self.bias = torch.zeros(outside.shape, device=device).masked_fill_(outside, -torch.inf)[:, None, None]

    def write(self, layer: int, prompt: int, key: Tensor, value: Tensor) -> None:
        """Store a prompt.

        Args:
            layer: the layer.
            prompt: index of the prompt.
            key: ``[L, K, D]``.
            value: ``[L, K, D]``.
        """
        self.keys[layer][prompt, : len(key)] = key
        self.values[layer][prompt, : len(value)] = value

    def move(self, source: int, target: int) -> None:
        """Put one prompt in another's place.

        Args:
            source: index of the prompt that stays.
            target: index of the prompt that is overwritten.
        """
        self._memory[:, :, target] = self._memory[:, :, source]
        if self.bias is not None:
            self.bias[target] = self.bias[source]


class SlotCache:
    """Keys and values of completions' own tokens.

    Args:
        decoder: the text model.
        slots: completions held at a time.
        width: tokens that a completion has room for.
    """

    def __init__(self, decoder: Decoder, slots: int, width: int) -> None:
        self._memory = _memory(decoder, slots, width)
        self.keys, self.values = self._memory.unbind(1)[0].unbind(), self._memory.unbind(1)[1].unbind()

    def write(self, layer: int, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token of each of ``N`` completions.

        Args:
            layer: the layer.
            place: slot times width plus index of the token, ``[N]`` long.
            key: ``[N, K, D]``.
            value: ``[N, K, D]``.
        """
        self.keys[layer].flatten(0, 1).index_copy_(0, place, key)
        self.values[layer].flatten(0, 1).index_copy_(0, place, value)

    def move(self, sources: list[int], targets: list[int], span: int) -> None:
        """Put some completions in the places of others.

        Args:
            sources: slots of completions that stay.
            targets: slots that are overwritten.
            span: tokens that the completions have.
        """
        self._memory[:, :, targets, :span] = self._memory[:, :, sources, :span]


class LayerCache:
    """Keys and values, one tensor per layer: a write to a part of one large tensor would compile to a copy of it.

    Args:
        decoder: the text model.
        rows: prompts or completions.
        width: tokens that each has room for.
    """

    def __init__(self, decoder: Decoder, rows: int, width: int) -> None:
        shape = (rows, width, decoder.key_heads, decoder.head_dim)
        self.keys, self.values = ([decoder.embedding.new_zeros(shape) for _ in decoder.layers] for _ in range(2))
        self.bias: Tensor | None = None

    def write(self, layer: int, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token of each of ``N`` rows.

        Args:
            layer: the layer.
            place: row times width plus index of the token, ``[N]`` long.
            key: ``[N, K, D]``.
            value: ``[N, K, D]``.
        """
        self.keys[layer].flatten(0, 1).index_copy_(0, place, key)
        self.values[layer].flatten(0, 1).index_copy_(0, place, value)


def _memory(decoder: Decoder, rows: int, width: int) -> Tensor:
    # Zeros, not what memory holds: a masked value still takes part in a product with 0.
    shape = (len(decoder.layers), 2, rows, width, decoder.key_heads, decoder.head_dim)
    return torch.zeros(shape, dtype=decoder.embedding.dtype, device=decoder.embedding.device)


def shared_attention(
    layer: int,
    query: Tensor,
    prompts: PromptCache | LayerCache,
    own: SlotCache | LayerCache,
    grid: Tensor,
    place: Tensor,
    bias: Tensor,
) -> Tensor:
    """Attend to a prompt and the tokens after it, each prompt read once for all its completions.

    Args:
        layer: the layer.
        query: one token of each of ``N`` completions, ``[N, R, K, D]``.
        prompts: the prompts.
        own: the completions' own tokens.
        grid: the completions of each prompt, ``[P, g]`` long; any completion stands in for one that is missing.
        place: where in the flat grid each completion is, ``[N]`` long.
        bias: added to scores of own tokens, ``[N, 1, 1, T]``.

    Returns:
        ``[N, R, K, D]``.
    """
    count, repeats, heads, dim = query.shape
    span = bias.shape[-1]
    own_part = part_attention(query, own.keys[layer][:count, :span], own.values[layer][:count, :span], bias)
    held = len(grid)
    folded = query.reshape(count, -1).index_select(0, grid.flatten()).view(held, -1, heads, dim)
    prompt_bias = None if prompts.bias is None else prompts.bias[:held]
    output, normalizer = part_attention(folded, prompts.keys[layer][:held], prompts.values[layer][:held], prompt_bias)
    prompt_part = (
        output.reshape(-1, repeats * heads * dim).index_select(0, place).view(query.shape),
        normalizer.reshape(-1, repeats * heads).index_select(0, place).view(count, repeats, heads),
    )
    return merge_parts(own_part, prompt_part)
