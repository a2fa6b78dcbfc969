"""The packed forward and the head in few fixed shapes, for devices that compile for each shape.

Everything that depends on where prompts, images and completions lie is computed on the host and sent as a tensor of a
fixed size. One size shapes the layers, that of the sequence, because attention goes through a dense mask: groups padded
to rectangles would add their number, prompt length, rows and completion length to it. A micro-batch of one or few
groups keeps the mask small.
"""

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.hardware.hooks import end_graph
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.fixed_shapes.buckets import bucket, padded
from lit_g2rpo.policy.fixed_shapes.vision import encode_padded, host_features
from lit_g2rpo.policy.forward.attention import Layout
from lit_g2rpo.policy.forward.packing import Packed, pack
from lit_g2rpo.policy.head.token_stats import TokenLoss, attach, logits_stats, loss_of_tokens

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy

TILE = 128
"""Tokens that go through the head at a time."""


@dataclasses.dataclass(slots=True, frozen=True)
class ImageRows:
    """What images put in the place of ``N`` tokens, on the device.

    Args:
        at: True at image tokens, ``[N]`` bool.
        embeddings: ``[N, H]``; read at image tokens only.
        deepstack: what the first layers add, 0 at other tokens, ``[N, H]`` per layer.
    """

    at: Tensor
    embeddings: Tensor
    deepstack: list[Tensor]

    def embedded(self, embeddings: Tensor) -> Tensor:
        """Put images in the place of their tokens.

        Args:
            embeddings: embeddings of the tokens, ``[N, H]``.

        Returns:
            ``[N, H]``.
        """
        return torch.where(self.at[:, None], self.embeddings.to(embeddings.dtype), embeddings)


def static_loss(policy: "Policy", microbatch: Microbatch, token_loss: TokenLoss) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one micro-batch and its diagnostics, in three graphs a size: forward, a tile of the head, backward.

    Args:
        microbatch: rows and loss fields, these on the CPU.
        token_loss: elementwise loss of each token.

    Returns:
        The loss, and elementwise diagnostics of the ``M`` tokens and of pads behind them, without gradient.
    """
    rows = [policy.encode(prompt) for prompt in microbatch.prompts]
    hidden, tiles = _forward(policy, rows, microbatch.token_ids)
    weight = policy.base.lm_head.weight
    with_grad = torch.is_grad_enabled()
    inputs = [hidden.detach(), weight.detach()]
    grads = [torch.zeros_like(tensor) if with_grad and tensor.requires_grad else None for tensor in (hidden, weight)]
    total = policy.empty.to(hidden.device).new_zeros(())
    end_graph(hidden.device)
    found = []
    for start, (predictors, targets) in zip(range(0, len(tiles) * TILE, TILE), tiles, strict=True):
        fields = _fields_of(microbatch.fields, slice(start, start + TILE), hidden.device)
        leaves = [tensor.requires_grad_(grad is not None) for tensor, grad in zip(inputs, grads, strict=True)]
        with torch.set_grad_enabled(with_grad):
            logprobs, entropy = _stats(policy, leaves[0], leaves[1], predictors, targets)
            loss, metrics = loss_of_tokens(token_loss, logprobs, entropy, fields)
        learning = [(leaf, grad) for leaf, grad in zip(leaves, grads, strict=True) if grad is not None]
        if learning:
            shares = torch.autograd.grad(loss.sum(), [leaf for leaf, _ in learning])
            for (_, grad), share in zip(learning, shares, strict=True):
                grad.add_(share)
        total += loss.detach().sum()
        found.append(metrics)
        end_graph(hidden.device)
    metrics = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    # The number of tiles shapes no graph but this one.
    end_graph(hidden.device)
    return attach(total, hidden, weight, grads), metrics


@torch.no_grad()
def static_token_stats(policy: "Policy", rows: list[EncodedPrompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probability and exact entropy of every completion token, without gradient.

    Args:
        rows: the prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

    Returns:
        Log-probabilities and entropies, nats, on the CPU, flat over the ``M = sum T_i`` tokens in row order.
    """
    hidden, tiles = _forward(policy, rows, completions)
    end_graph(hidden.device)
    found = []
    for predictors, targets in tiles:
        found.append(torch.stack(_stats(policy, hidden, policy.base.lm_head.weight, predictors, targets)))
        end_graph(hidden.device)
    count = sum(len(tokens) for tokens in completions)
    logprobs, entropy = torch.cat([part.cpu() for part in found], 1)[:, :count]
    return logprobs, entropy


def image_rows(policy: "Policy", packed: Packed, size: int) -> ImageRows:
    """Lay the features of images out where their tokens are.

    Args:
        packed: the sequence, on the CPU.
        size: its padded length ``N``.

    Returns:
        The rows; with gradient where the vision tower learns and gradients are on.
    """
    device, base = policy.device, policy.base
    at = torch.zeros(size, dtype=torch.bool)
    at[packed.images] = True
    rows = [row for row in packed.prompts if row.pixel_values is not None]
    if policy.tower_learns and torch.is_grad_enabled():
        # The tower's output itself, in which each image token looks up its row.
        index = torch.zeros(size, dtype=torch.long)
        index[packed.images] = torch.arange(len(packed.images))
        index, at = index.to(device), at.to(device)
        embeddings, *deepstack = (level.index_select(0, index) for level in encode_padded(policy, rows))
        return ImageRows(at, embeddings, [level * at[:, None] for level in deepstack])
    levels = 1 + len(base.config.vision_config.deepstack_visual_indexes)
    table = torch.zeros(levels, size, base.config.text_config.hidden_size, dtype=base.dtype)
    if rows:
        features = host_features(policy, rows)
        table[0, packed.images] = torch.cat([found.embeddings for found in features]).to(table.dtype)
        for i, level in enumerate(zip(*(found.deepstack for found in features), strict=True), 1):
            table[i, packed.images] = torch.cat(level).to(table.dtype)
    embeddings, *deepstack = (level.to(device) for level in table)
    return ImageRows(at.to(device), embeddings, deepstack)


def group_mask(packed: Packed, size: int, device: torch.device) -> Tensor:
    """Say who sees whom: a prompt itself, a completion its prompt and itself; pads see each other.

    Args:
        packed: the sequence, on the CPU.
        size: its padded length ``N``.
        device: where the mask is built, from two vectors.

    Returns:
        ``[N, N]`` bool.
    """
    sizes = [(g, r, size) for g, span in enumerate(packed.spans)
             for r, size in enumerate((span.prompt, *span.completions))]  # fmt: skip
    lengths = torch.tensor([length for *_, length in sizes])
    group, row = (torch.tensor([entry[i] for entry in sizes]).repeat_interleave(lengths) for i in (0, 1))
    group, row = padded(group, size, -1).to(device), padded(row, size).to(device)
    place = torch.arange(size, device=device)
    same_row = (row[None] == 0) | (row[None] == row[:, None])
    return (group[None] == group[:, None]) & same_row & (place[None] <= place[:, None])


def _forward(
    policy: "Policy", rows: list[EncodedPrompt], completions: list[Tensor]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Last hidden states ``[N, H]``, and tiles of predictors and the tokens they predict, ``[TILE]`` long each."""
    count = sum(len(tokens) for tokens in completions)
    dummy = not rows
    if dummy:
        rows, completions = [policy.blank_text], [policy.blank_text.input_ids]
    packed = pack(rows, completions)
    size = bucket(len(packed.input_ids))
    device, text = policy.device, policy.base.model.language_model
    images = image_rows(policy, packed, size)
    embeddings = images.embedded(text.embed_tokens(padded(packed.input_ids, size, policy.pad_token_id).to(device)))
    hidden = text(
        inputs_embeds=embeddings[None],
        position_ids=padded(packed.positions, size).to(device)[:, None],
        attention_mask=embeddings.new_empty(1, 1, 0, 0),
        use_cache=False,
        layout=Layout([], [], [], mask=group_mask(packed, size, device)),
        deepstack=(None, images.deepstack),
    ).last_hidden_state[0]
    prompts, own = sum(span.prompt for span in packed.spans), sum(span.tokens for span in packed.spans)
    counters = policy.counters
    counters.train_passes += 1
    counters.train_prompt_tokens += 0 if dummy else prompts
    counters.train_completion_tokens += own
    counters.train_padded_tokens += size - own - (0 if dummy else prompts)
    targets = torch.cat([torch.empty(0, dtype=torch.long), *completions])[:count]
    length = bucket(-(-max(count, 1) // TILE), 1) * TILE
    both = torch.stack([padded(packed.predictors[:count], length), padded(targets, length)])
    return hidden, [(part[0].to(device), part[1].to(device)) for part in torch.split(both, TILE, 1)]


def _stats(
    policy: "Policy", hidden: Tensor, weight: Tensor, predictors: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(hidden.index_select(0, predictors).to(dtype), weight.to(dtype))
        return logits_stats(logits / policy.temperature, targets)


def _fields_of(fields: TokenFields, part: slice, device: torch.device) -> TokenFields:
    """A tile of the loss fields on the device; tokens that fill it weigh 0."""
    values = {field.name: getattr(fields, field.name) for field in dataclasses.fields(fields)}
    tile = {name: padded(v[part], TILE).to(device) for name, v in values.items() if v is not None}
    return dataclasses.replace(fields, **tile)
