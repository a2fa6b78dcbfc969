"""Prefill: read prompts and their images once, packed without padding."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.batching import packs
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.forward.vision import image_features
from lit_g2rpo.rollout.native.attention import PromptCache
from lit_g2rpo.rollout.native.decoder import Decoder


def token_bytes(config: Any, width: int) -> int:
    """Estimate the memory that a token takes while its prompt is read.

    Args:
        config: the text model's config.
        width: bytes per activation.

    Returns:
        Bytes for gate, up and their product in the widest layer, plus the residual stream, queries, keys and values.
    """
    return width * (3 * int(config.intermediate_size) + 6 * int(config.hidden_size))


def prefill(
    backbone: Backbone,
    decoder: Decoder,
    prompts: list[EncodedPrompt],
    cache: PromptCache,
    budget_mib: float,
    needed: list[bool],
) -> Tensor:
    """Read prompts into the cache.

    Args:
        prompts: ``P`` of them.
        budget_mib: most memory for activations, MiB; a prompt that needs more is read alone.
        needed: whether each prompt is needed; a pack without needed prompts is not read.

    Returns:
        Hidden state of each prompt's last token, ``[P, H]``; zeros for prompts that were not read.
    """
    last: list[Tensor] = []
    first = 0
    most = budget_mib * 2**20 / token_bytes(backbone.text.config, decoder.embedding.element_size())
    for pack in packs(prompts, lambda prompt: len(prompt.input_ids), most):
        read = any(needed[first : first + len(pack)])
        blank = decoder.embedding.new_zeros(len(pack), decoder.embedding.shape[1])
        last.append(_read(backbone, decoder, pack, first, cache) if read else blank)
        first += len(pack)
        if not read:
            continue
        backbone.counters.prefill_tokens += sum(len(prompt.input_ids) for prompt in pack)
    return torch.cat(last)


def _read(backbone: Backbone, decoder: Decoder, pack: list[EncodedPrompt], first: int, cache: PromptCache) -> Tensor:
    device = backbone.device
    lengths = [len(prompt.input_ids) for prompt in pack]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    x = embedding(send(torch.cat([prompt.input_ids for prompt in pack]), device), decoder.embedding)
    features = [found for found in image_features(backbone, pack) if found is not None]
    images = None
    if features:
        places = send(torch.cat([prompt.token_types for prompt in pack]).nonzero()[:, 0], device)
        x.index_copy_(0, places, torch.cat([found.embeddings for found in features]).to(device, x.dtype))
        layers = zip(*(found.added for found in features), strict=True)
        images = places, [torch.cat(layer).to(device) for layer in layers]

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        outputs = []
        for i, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            own = slice(end - length, end)
            cache.write(layer, first + i, key[own], value[own])
            q, k, v = (tensor[None, own].transpose(1, 2) for tensor in (query.flatten(1, 2), key, value))
            read = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            outputs.append(read[0].transpose(0, 1).flatten(1))
        return torch.cat(outputs)

    positions = send(torch.cat([prompt.positions for prompt in pack], 1), device)
    hidden = decoder(x, decoder.rotation(positions), attend, images)
    return hidden[send(torch.tensor(ends) - 1, device)]
