"""The packed forward: each distinct prompt once, its completions behind it, no pads."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.forward.attention import NAME, make_layout
from lit_g2rpo.policy.forward.attention_cpu import Span
from lit_g2rpo.policy.forward.norm import replace_norms
from lit_g2rpo.policy.forward.vision import image_features, project_patches

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy


@dataclass(slots=True)
class Packed:
    """Rows as one sequence of ``N`` tokens, on the CPU.

    The last token of a completion predicts nothing and is left out.

    Args:
        prompts: the distinct prompts, in the order in which they lie.
        spans: where each lies with its completions.
        input_ids: ``[N]`` long.
        positions: M-RoPE positions, ``[3, N]`` long.
        images: where image tokens lie, ``[n]`` long.
        predictors: the token that predicts each completion token, in the order of the rows, ``[M]`` long.
    """

    prompts: list[EncodedPrompt]
    spans: list[Span]
    input_ids: Tensor
    positions: Tensor
    images: Tensor
    predictors: Tensor


def pack(rows: list[EncodedPrompt], completions: list[Tensor]) -> Packed:
    """Lay rows of prompt and completion out as one sequence; rows of one prompt share it.

    Args:
        rows: the prompt of each row, at least one; one object given twice is one prompt.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

    Returns:
        The sequence.
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


def packed_states(policy: "Policy", rows: list[EncodedPrompt], completions: list[Tensor]) -> Tensor:
    """Hidden states that predict every completion token, by one packed forward.

    Args:
        rows: the prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

    Returns:
        Last hidden states, ``[M, H]`` over the ``M = sum T_i`` tokens in row order.
    """
    count, dummy = sum(len(tokens) for tokens in completions), 0
    # Every rank runs the same modules in every micro-batch, and gradients exist everywhere (zero, not missing).
    if not rows or (policy.tower_learns and not any(row.pixel_values is not None for row in rows)):
        blank = policy.blank if policy.tower_learns else policy.blank_text
        rows, completions, dummy = [*rows, blank], [*completions, blank.input_ids[-1:]], len(blank.input_ids)
    packed = pack(rows, completions)
    device, text = policy.device, policy.base.model.language_model
    embeddings = text.embed_tokens(packed.input_ids.to(device))
    features = [found for found in image_features(policy, packed.prompts) if found is not None]
    images = packed.images.to(device)
    deepstack: list[Tensor] = []
    if features:
        own = torch.cat([found.embeddings for found in features]).to(embeddings.dtype)
        embeddings = embeddings.index_copy(0, images, own)
        deepstack = [torch.cat(layers) for layers in zip(*(found.deepstack for found in features), strict=True)]
    hidden = text(
        inputs_embeds=embeddings[None],
        # Three rows, not four: a row of text positions would be searched for packed sequences.
        position_ids=packed.positions.to(device)[:, None],
        # A mask of four dimensions is taken as it is: none is built, and grouped attention reads the layout.
        attention_mask=embeddings.new_empty(1, 1, 0, 0),
        use_cache=False,
        layout=make_layout(packed.spans, device, policy.attention),
        deepstack=(images, deepstack),
    ).last_hidden_state[0]
    counters = policy.counters
    counters.train_passes += 1
    counters.train_padded_tokens += dummy
    counters.train_prompt_tokens += sum(span.prompt for span in packed.spans) - dummy
    counters.train_completion_tokens += sum(span.tokens for span in packed.spans)
    # A slice keeps the dummy in the graph.
    states: Tensor = hidden[packed.predictors.to(device)][:count]
    return states


def prepare_for_packing(model: Any) -> None:
    """Make a model run packed groups next to everything it does already.

    Args:
        model: a Qwen3-VL model.
    """
    model.set_attn_implementation({"text_config": NAME})
    project_patches(model)
    replace_norms(model.model.language_model)
    layers = len(model.config.vision_config.deepstack_visual_indexes)
    for index, layer in enumerate(model.model.language_model.layers[:layers]):
        layer.register_forward_hook(partial(_add_deepstack, index), with_kwargs=True)


def _add_deepstack(index: int, _: nn.Module, args: Any, kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
    """Add image features behind a layer by index; the model's own way looks for them in a mask, which costs a sync.

    Without an index there are features for every token, which fixed shapes ask for.
    """
    images, deepstack = kwargs.get("deepstack", (None, []))
    if not deepstack:
        return hidden
    own = deepstack[index].to(hidden.dtype)[None]
    return torch.add(hidden, own) if images is None else hidden.index_add(1, images, own)
