"""A prompt as vLLM takes it: the trainer's own tokens and patches, untouched by vLLM's processor."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.policy.encoding import EncodedPrompt


@dataclass(slots=True, frozen=True)
class MediaInput:
    """An image of a prompt, or a pair of frames of a video.

    Args:
        digest: digest of patches and grid, under which vLLM caches the image's features.
        offset: index of its first image token in the prompt.
        length: number of its image tokens.
        patches: ``[patches, values]``, normalized.
        grid: 1, rows and columns of patches, ``[3]`` long.
    """

    digest: str
    offset: int
    length: int
    patches: Tensor
    grid: Tensor


@dataclass(slots=True, frozen=True)
class PromptInput:
    """A prompt's tokens, with image-pad tokens expanded, and its images in order."""

    token_ids: list[int]
    images: list[MediaInput]


def prompt_input(encoded: EncodedPrompt, merge: int) -> PromptInput:
    """Split an encoded prompt into its tokens and its images.

    Args:
        merge: patches per side of an image token.
    """
    token_ids = encoded.input_ids.tolist()
    if encoded.pixel_values is None or encoded.image_grid is None:
        return PromptInput(token_ids, [])
    places = encoded.token_types.nonzero()[:, 0].tolist()
    # a pair of a video's frames is an image of its own: the tower and the positions do not tell them apart
    grids = encoded.image_grid.repeat_interleave(encoded.image_grid[:, 0], 0)
    grids[:, 0] = 1
    images, first = [], 0
    for patches, grid in zip(torch.split(encoded.pixel_values, grids.prod(-1).tolist()), grids, strict=True):
        length = len(patches) // merge**2
        images.append(MediaInput(_digest(patches, grid), places[first], length, patches, grid))
        first += length
    return PromptInput(token_ids, images)


def vllm_input(prompt: PromptInput) -> Any:
    """Return a prompt in vLLM's own classes."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

    if not prompt.images:
        return tokens_input(prompt.token_ids)
    from transformers import BatchFeature

    grids = torch.stack([image.grid for image in prompt.images])
    fields = {
        "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", grids.prod(-1)),
        "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    patches = torch.cat([image.patches for image in prompt.images])
    items = MultiModalKwargsItems.from_hf_inputs(
        BatchFeature({"pixel_values": patches, "image_grid_thw": grids}), fields
    )
    places = [PlaceholderRange(offset=image.offset, length=image.length) for image in prompt.images]
    return mm_input(prompt.token_ids, items, {"image": [image.digest for image in prompt.images]}, {"image": places})


def _digest(patches: Tensor, grid: Tensor) -> str:
    # with the grid, since images of one color and different shapes have the same patches
    digest = hashlib.blake2b(repr(grid.tolist()).encode(), digest_size=32)
    digest.update(patches.contiguous().numpy().tobytes())
    return digest.hexdigest()
