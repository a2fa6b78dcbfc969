"""The packed forward: each distinct prompt once, followed by its completions, without pads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.forward.attention import Span, make_layout
from lit_g2rpo.policy.forward.vision import image_features


@dataclass(slots=True)
class Packed:
    """Rows as one sequence of ``N`` tokens, on the CPU.

    The last token of a completion predicts nothing and is left out.

    Args:
        prompts: the distinct prompts, in packed order.
        spans: the positions of each prompt and its completions.
        input_ids: ``[N]`` long.
        positions: ``[3, N]`` long.
        images: indices of image tokens, ``[n]`` long.
        predictors: the token that predicts each completion token, in the order of the rows, ``[M]`` long.
    """

    prompts: list[EncodedPrompt]
    spans: list[Span]
    input_ids: Tensor
    positions: Tensor
    images: Tensor
    predictors: Tensor


def pack(rows: list[EncodedPrompt], completions: list[Tensor]) -> Packed:
    """Pack rows of prompt and completion into one sequence, in which rows with the same prompt share it.

    Args:
        rows: the prompt of each row, at least one; the same object counts as one prompt.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.
    """
    members: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(id(row), []).append(i)
    prompts = [rows[group[0]] for group in members.values()]
    spans, ids, positions, images, end = [], [], [], [], 0
    predictors: list[Tensor] = [torch.empty(0)] * len(rows)
    for prompt, group in zip(prompts, members.values(), strict=True):
        spans.append(Span(end, len(prompt.input_ids), tuple(len(completions[i]) - 1 for i in group)))
        ids.append(prompt.input_ids)
        positions.append(prompt.positions)
        images.append(end + prompt.token_types.nonzero()[:, 0])
        last = end + len(prompt.input_ids) - 1
        end = last + 1
        for i in group:
            length = len(completions[i]) - 1
            ids.append(completions[i][:length])
            positions.append((prompt.next_position + torch.arange(length)).expand(3, -1))
            predictors[i] = torch.cat([torch.tensor([last]), end + torch.arange(length)])
            end += length
    return Packed(prompts, spans, torch.cat(ids), torch.cat(positions, 1), torch.cat(images), torch.cat(predictors))


def packed_states(backbone: Backbone, rows: list[EncodedPrompt], completions: list[Tensor]) -> Tensor:
    """Compute the hidden states that predict every completion token in one packed forward.

    Args:
        rows: the prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

    Returns:
        Last hidden states, ``[M, H]`` over the ``M = sum T_i`` tokens in row order.
    """
    count, dummy = sum(len(tokens) for tokens in completions), 0
    # Every rank runs the same modules in every micro-batch, and gradients exist everywhere (zero, not missing).
    if not rows or (backbone.tower_learns and not any(row.pixel_values is not None for row in rows)):
        blank = backbone.blank if backbone.tower_learns else backbone.blank_text
        rows, completions, dummy = [*rows, blank], [*completions, blank.input_ids[-1:]], len(blank.input_ids)
    packed = pack(rows, completions)
    device = backbone.device
    # before the first kernel, so that none waits for a copy
    ids, positions, images, predictors = (
        send(tensor, device) for tensor in (packed.input_ids, packed.positions, packed.images, packed.predictors)
    )
    layout = make_layout(packed.spans, device, backbone.attention)
    embeddings = backbone.embedding(ids)
    features = [found for found in image_features(backbone, packed.prompts) if found is not None]
    added: list[Tensor] = []
    if features:
        own = torch.cat([found.embeddings for found in features]).to(embeddings.dtype)
        embeddings = embeddings.index_copy(0, images, own)
        added = [torch.cat(layers) for layers in zip(*(found.added for found in features), strict=True)]
    hidden = backbone.family.hidden_states(backbone.model, embeddings, positions, layout, images, added)
    counters = backbone.counters
    counters.train_passes += 1
    counters.train_padded_tokens += dummy
    counters.train_prompt_tokens += sum(span.prompt for span in packed.spans) - dummy
    counters.train_completion_tokens += sum(span.tokens for span in packed.spans)
    # A slice keeps the dummy in the graph.
    return hidden[predictors][:count]
