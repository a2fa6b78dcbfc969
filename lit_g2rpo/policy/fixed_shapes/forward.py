"""The packed forward and the head in a few fixed shapes, for devices that compile for each shape.

Everything that depends on the positions of prompts, images and completions is computed on the host and sent as a
tensor of fixed size. Attention uses a dense mask so that layers depend on a single size, that of the sequence: groups
padded to rectangles would also depend on their number, prompt length, rows and completion length. Micro-batches of one
or few groups keep the mask small.
"""

import dataclasses

import torch
from torch import Tensor

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.hardware.hooks import end_graph
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.fixed_shapes.buckets import bucket, padded
from lit_g2rpo.policy.fixed_shapes.vision import encode_padded, host_features
from lit_g2rpo.policy.forward.attention import Layout
from lit_g2rpo.policy.forward.packing import Packed, pack
from lit_g2rpo.policy.head.token_stats import TokenLoss, attach, logits_stats, loss_of_tokens

TILE = 128
"""Tokens per pass through the head."""


@dataclasses.dataclass(slots=True, frozen=True)
class ImageRows:
    """Image features at their places among ``N`` tokens, on the device.

    Args:
        at: True at image tokens, ``[N]`` bool.
        embeddings: ``[N, H]``; used only at image tokens.
        added: features that the first layers add, 0 at other tokens, ``[N, H]`` per layer.
    """

    at: Tensor
    embeddings: Tensor
    added: list[Tensor]

    def embedded(self, embeddings: Tensor) -> Tensor:
        """Replace the embeddings ``[N, H]`` of image tokens with those of images."""
        return torch.where(self.at[:, None], self.embeddings.to(embeddings.dtype), embeddings)


def static_loss(
    backbone: Backbone, rows: list[EncodedPrompt], microbatch: Microbatch, token_loss: TokenLoss, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss and diagnostics of a micro-batch in three graphs per size: forward, head tile, backward.

    Args:
        rows: the prompt of each row of the micro-batch.
        microbatch: completions, and loss fields on the CPU.
        token_loss: elementwise loss of each token.

    Returns:
        The loss, and elementwise diagnostics of the ``M`` tokens and the pads after them, without gradient.
    """
    hidden, tiles = _forward(backbone, rows, microbatch.token_ids)
    weight = backbone.head
    with_grad = torch.is_grad_enabled()
    inputs = [hidden.detach(), weight.detach()]
    grads = [torch.zeros_like(tensor) if with_grad and tensor.requires_grad else None for tensor in (hidden, weight)]
    total = torch.zeros((), dtype=backbone.loss_dtype, device=hidden.device)
    end_graph(hidden.device)
    found = []
    for start, (predictors, targets) in zip(range(0, len(tiles) * TILE, TILE), tiles, strict=True):
        fields = _fields_of(microbatch.fields, slice(start, start + TILE), hidden.device)
        leaves = [tensor.requires_grad_(grad is not None) for tensor, grad in zip(inputs, grads, strict=True)]
        with torch.set_grad_enabled(with_grad):
            logprobs, entropy = _stats(leaves[0], leaves[1], predictors, targets, temperature)
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
    # Only this graph depends on the number of tiles.
    end_graph(hidden.device)
    return attach(total, hidden, weight, grads), metrics


@torch.no_grad()
def static_token_stats(
    backbone: Backbone, rows: list[EncodedPrompt], completions: list[Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute the log-probability and exact entropy of every completion token, without gradient.

    Args:
        rows: the prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

    Returns:
        Log-probabilities and entropies, nats, on the CPU, flat over the ``M = sum T_i`` tokens in row order.
    """
    hidden, tiles = _forward(backbone, rows, completions)
    end_graph(hidden.device)
    found = []
    for predictors, targets in tiles:
        found.append(torch.stack(_stats(hidden, backbone.head, predictors, targets, temperature)))
        end_graph(hidden.device)
    count = sum(len(tokens) for tokens in completions)
    logprobs, entropy = torch.cat([part.cpu() for part in found], 1)[:, :count]
    return logprobs, entropy


def image_rows(backbone: Backbone, packed: Packed, size: int) -> ImageRows:
    """Place image features at the positions of their tokens.

    Args:
        packed: the sequence, on the CPU.
        size: its padded length ``N``.

    Returns:
        The rows, with gradient if the vision tower learns and gradients are enabled.
    """
    device = backbone.device
    at = torch.zeros(size, dtype=torch.bool)
    at[packed.images] = True
    rows = [row for row in packed.prompts if row.pixel_values is not None]
    if backbone.tower_learns and torch.is_grad_enabled():
        # The tower's own output, in which each image token looks up its row.
        index = torch.zeros(size, dtype=torch.long)
        index[packed.images] = torch.arange(len(packed.images))
        index, at = index.to(device), at.to(device)
        embeddings, *added = (level.index_select(0, index) for level in encode_padded(backbone, rows))
        return ImageRows(at, embeddings, [level * at[:, None] for level in added])
    width = backbone.text.config.hidden_size
    table = torch.zeros(backbone.image_sizes.levels, size, width, dtype=backbone.model.dtype)
    if rows:
        features = host_features(backbone, rows)
        table[0, packed.images] = torch.cat([found.embeddings for found in features]).to(table.dtype)
        for i, level in enumerate(zip(*(found.added for found in features), strict=True), 1):
            table[i, packed.images] = torch.cat(level).to(table.dtype)
    embeddings, *added = (level.to(device) for level in table)
    return ImageRows(at.to(device), embeddings, added)


def group_mask(packed: Packed, size: int, device: torch.device) -> Tensor:
    """Build the attention mask: a prompt sees itself, a completion sees its prompt and itself, pads see each other.

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
    backbone: Backbone, rows: list[EncodedPrompt], completions: list[Tensor]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Compute last hidden states ``[N, H]``, and tiles of predictors and their targets, ``[TILE]`` long each."""
    count = sum(len(tokens) for tokens in completions)
    dummy = not rows
    if dummy:
        rows, completions = [backbone.blank_text], [backbone.blank_text.input_ids]
    packed = pack(rows, completions)
    size = bucket(len(packed.input_ids))
    device = backbone.device
    images = image_rows(backbone, packed, size)
    embeddings = images.embedded(backbone.embedding(padded(packed.input_ids, size, backbone.pad_token_id).to(device)))
    positions = padded(packed.positions, size).to(device)
    layout = Layout([], [], [], mask=group_mask(packed, size, device))
    hidden = backbone.family.hidden_states(backbone.model, embeddings, positions, layout, None, images.added)
    prompts, own = sum(span.prompt for span in packed.spans), sum(span.tokens for span in packed.spans)
    counters = backbone.counters
    counters.train_passes += 1
    counters.train_prompt_tokens += 0 if dummy else prompts
    counters.train_completion_tokens += own
    counters.train_padded_tokens += size - own - (0 if dummy else prompts)
    targets = torch.cat([torch.empty(0, dtype=torch.long), *completions])[:count]
    length = bucket(-(-max(count, 1) // TILE), 1) * TILE
    both = torch.stack([padded(packed.predictors[:count], length), padded(targets, length)])
    return hidden, [(part[0].to(device), part[1].to(device)) for part in torch.split(both, TILE, 1)]


def _stats(
    hidden: Tensor, weight: Tensor, predictors: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(hidden.index_select(0, predictors).to(dtype), weight.to(dtype))
        return logits_stats(logits / temperature, targets)


def _fields_of(fields: TokenFields, part: slice, device: torch.device) -> TokenFields:
    """Put a tile of the loss fields on the device; fill tokens have weight 0."""
    values = {field.name: getattr(fields, field.name) for field in dataclasses.fields(fields)}
    tile = {name: padded(v[part], TILE).to(device) for name, v in values.items() if v is not None}
    return dataclasses.replace(fields, **tile)
