"""Keys and values: of prompts, shared by their completions, and of each completion's own tokens."""

import torch
from torch import Tensor

from lit_g2rpo.rollout.native.decoder import Decoder


class PromptCache:
    """Keys and values of prompts, ``[P * K, width, D]`` per layer.

    Args:
        lengths: tokens of each prompt, ``P`` of them.
        width: tokens that a prompt has room for.
    """

    def __init__(self, decoder: Decoder, lengths: list[int], width: int) -> None:
        self._memory = _memory(decoder, len(lengths), width)
        self.keys, self.values = _by_layer(self._memory)
        device = decoder.embedding.device
        outside = torch.arange(width, device=device) >= torch.tensor(lengths, device=device)[:, None]
        bias = torch.zeros(outside.shape, device=device, dtype=decoder.score_dtype).masked_fill_(outside, -torch.inf)
        self._heads = decoder.key_heads
        self.bias = bias.repeat_interleave(self._heads, 0)[:, None]

    def write(self, layer: int, prompt: int, key: Tensor, value: Tensor) -> None:
        """Store keys and values, ``[L, K, D]``, of a prompt by its index."""
        self._memory[layer, :, prompt, :, : len(key)] = torch.stack([key, value]).transpose(1, 2)

    def move(self, source: int, target: int) -> None:
        """Overwrite one prompt, by its index, with another."""
        self._memory[:, :, target] = self._memory[:, :, source]
        bias = self.bias.view(-1, self._heads, *self.bias.shape[1:])
        bias[target] = bias[source]


class SlotCache:
    """Keys and values of completions' own tokens, ``[slots * K, width, D]`` per layer.

    Args:
        slots: completions held at a time.
        width: tokens that a completion has room for.
    """

    def __init__(self, decoder: Decoder, slots: int, width: int) -> None:
        self._memory = _memory(decoder, slots, width)
        self.keys, self.values = _by_layer(self._memory)

    def write(self, layer: int, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token of each of ``N`` completions, as `write_token` does."""
        write_token(self.keys[layer], self.values[layer], place, key, value)

    def move(self, sources: list[int], targets: list[int], span: int) -> None:
        """Overwrite the first ``span`` tokens of some slots, ``targets``, with those of others."""
        self._memory[:, :, targets, :, :span] = self._memory[:, :, sources, :, :span]


class LayerCache:
    """Keys and values, one tensor per layer: a write to a part of one large tensor would compile to a copy of it.

    Args:
        rows: prompts or completions.
        width: tokens that each has room for.
    """

    def __init__(self, decoder: Decoder, rows: int, width: int) -> None:
        shape = (rows * decoder.key_heads, width, decoder.head_dim)
        self.keys, self.values = (
            [decoder.embedding.new_zeros(shape, dtype=decoder.dtype) for _ in decoder.layers] for _ in range(2)
        )
        self.bias: Tensor

    def write(self, layer: int, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token of each of ``N`` rows, as `write_token` does."""
        write_token(self.keys[layer], self.values[layer], place, key, value)


def write_token(keys: Tensor, values: Tensor, place: Tensor, key: Tensor, value: Tensor) -> None:
    """Store one token of each of ``N`` rows in a layer.

    Args:
        keys: of the layer, ``[rows * K, width, D]``.
        values: of the layer, ``[rows * K, width, D]``.
        place: where each head's token goes: (row times K plus head) times width plus index of the token, ``[N * K]``
            long.
        key: ``[N, K, D]``.
        value: ``[N, K, D]``.
    """
    for memory, fresh in ((keys, key), (values, value)):
        memory.flatten(0, 1).index_copy_(0, place, fresh.flatten(0, 1))


def _memory(decoder: Decoder, rows: int, width: int) -> Tensor:
    # Zeros, not what memory holds: a masked value still takes part in a product with 0.
    shape = (len(decoder.layers), 2, rows, decoder.key_heads, width, decoder.head_dim)
    return torch.zeros(shape, dtype=decoder.dtype, device=decoder.embedding.device)


def _by_layer(memory: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Split keys and values by layer, rows and heads in one dimension, which is what batched products take."""
    keys, values = memory.flatten(2, 3).unbind(1)
    return keys.unbind(), values.unbind()
