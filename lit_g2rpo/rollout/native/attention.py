"""Keys and values of prompts and completions, and attention of one new token to them, reading each prompt once."""

import torch
from torch import Tensor

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.rollout.native.decoder import Decoder


class PromptCache:
    """Keys and values of prompts, ``[P * K, width, D]`` per layer.

    Args:
        lengths: number of tokens of each prompt, ``P`` of them.
        width: capacity per prompt, tokens.
    """

    def __init__(self, decoder: Decoder, lengths: list[int], width: int) -> None:
        self._memory = _memory(decoder, len(lengths), width)
        self.keys, self.values = _by_layer(self._memory)
        device = decoder.embedding.device
        outside = torch.arange(width, device=device) >= send(torch.tensor(lengths), device)[:, None]
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
        width: capacity per completion, tokens.
    """

    def __init__(self, decoder: Decoder, slots: int, width: int) -> None:
        self._memory = _memory(decoder, slots, width)
        self.keys, self.values = _by_layer(self._memory)

    def write(self, layer: int, place: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one token of each of ``N`` completions, as `write_token` does."""
        write_token(self.keys[layer], self.values[layer], place, key, value)

    def move(self, sources: list[int], targets: list[int], span: int) -> None:
        """Overwrite the first ``span`` tokens of the slots ``targets`` with those of ``sources``, other slots."""
        for source, target in zip(sources, targets, strict=True):
            self._memory[:, :, target, :, :span] = self._memory[:, :, source, :, :span]


class LayerCache:
    """Keys and values, one tensor per layer, because a partial write to one large tensor would compile to a full copy.

    Args:
        rows: prompts or completions.
        width: capacity of each, tokens.
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
        keys: keys of the layer, ``[rows * K, width, D]``.
        values: values of the layer, ``[rows * K, width, D]``.
        place: index at which each head's token is stored: (row times K plus head) times width plus index of the token,
            ``[N * K]`` long.
        key: ``[N, K, D]``.
        value: ``[N, K, D]``.
    """
    for memory, fresh in ((keys, key), (values, value)):
        memory.flatten(0, 1).index_copy_(0, place, fresh.flatten(0, 1))


def _memory(decoder: Decoder, rows: int, width: int) -> Tensor:
    # Zeros instead of uninitialized memory: a masked value is still multiplied by 0.
    shape = (len(decoder.layers), 2, rows, decoder.key_heads, width, decoder.head_dim)
    return torch.zeros(shape, dtype=decoder.dtype, device=decoder.embedding.device)


def _by_layer(memory: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Split keys and values by layer, with rows and heads in one dimension, as batched products expect."""
    keys, values = memory.flatten(2, 3).unbind(1)
    return keys.unbind(), values.unbind()


def shared_attention(
    layer: int,
    query: Tensor,
    prompts: PromptCache | LayerCache,
    own: SlotCache | LayerCache,
    grid: Tensor,
    place: Tensor,
    bias: Tensor,
) -> Tensor:
    """Attend to a prompt and the tokens after it with products that read each prompt once for all its completions.

    Uses one softmax over both parts, in batched products: with the few rows of decoding, fused attention is dominated
    by overhead (29 against 10 us for 8 rows).

    Args:
        query: one token of each of ``N`` completions, ``[N, K, R, D]``.
        own: the completions' own tokens.
        grid: for each prompt, key head and completion, the index of its head among ``N * K``, ``[P, K, g]`` long; any
            head fills in for a missing one.
        place: index of each head in the flat grid, ``[N * K]`` long.
        bias: added to scores of own tokens, ``[N * K, 1, T]`` float.

    Returns:
        The output of each completion, ``[N, K * R * D]``.
    """
    count, heads, repeats, dim = query.shape
    held, span = len(grid) * heads, bias.shape[-1]
    query = query.reshape(count * heads, repeats, dim)
    folded = query.index_select(0, grid.flatten()).view(held, -1, dim)
    keys, values = prompts.keys[layer][:held], prompts.values[layer][:held]
    to_prompt = _scores(folded, keys, prompts.bias[:held]).view(-1, repeats, keys.shape[1]).index_select(0, place)
    to_own = _scores(query, own.keys[layer][: count * heads, :span], bias)
    weights = torch.cat([to_prompt, to_own], -1).softmax(-1).to(values.dtype)
    on_prompt, on_own = weights.split_with_sizes([keys.shape[1], span], -1)
    read = torch.bmm(on_prompt.index_select(0, grid.flatten()).view(held, -1, keys.shape[1]), values)
    read = read.view(-1, repeats, dim).index_select(0, place)
    return torch.baddbmm(read, on_own, own.values[layer][: count * heads, :span]).view(count, -1)


def grid_of_heads(grid: Tensor, place: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Convert an arrangement of completions to one of heads.

    Args:
        grid: the completions of each prompt, ``[P, g]`` long; any completion fills in for a missing one.
        place: index of each completion in the flat grid, ``[N]`` long.
        heads: indices of the key heads, ``[K]`` long.

    Returns:
        The grid and place of `shared_attention`: ``[P, K, g]`` and ``[N * K]`` long.
    """
    count, group = len(heads), grid.shape[1]
    prompt, member = place[:, None] // group, place[:, None] % group
    return grid[:, None] * count + heads[:, None], ((prompt * count + heads) * group + member).flatten()


def _scores(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Return scaled scores in float32 or wider: in half precision, their error would exceed that of training."""
    scale = query.shape[-1] ** -0.5
    if query.dtype.itemsize >= 4:
        return torch.baddbmm(bias, query, key.mT, alpha=scale)
    if query.device.type == "cuda":
        return torch.bmm(query, key.mT, out_dtype=torch.float32).mul_(scale).add_(bias)
    return torch.baddbmm(bias, query.float(), key.mT.float(), alpha=scale)
