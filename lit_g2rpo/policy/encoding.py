"""Conversion of prompts to the tensors of a forward."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.families.family import Family


@dataclass(slots=True, weakref_slot=True, eq=False)
class Features:
    """Output of the vision tower for a prompt's images: ``n`` image tokens in the order of their places.

    Args:
        embeddings: embeddings that replace the image-pad tokens, ``[n, H]``.
        added: features that the first layers of the text model add at image tokens, ``[n, H]`` per layer.
    """

    embeddings: Tensor
    added: list[Tensor]

    @property
    def bytes(self) -> int:
        """Size of the features, bytes."""
        return sum(tensor.nbytes for tensor in (self.embeddings, *self.added))

    def to(self, device: torch.device) -> "Features":
        """Move the features to a device, unless they are already there."""
        if self.embeddings.device == device:
            return self
        return Features(send(self.embeddings, device), [send(layer, device) for layer in self.added])


@dataclass(slots=True)
class EncodedPrompt:
    """A prompt as tokens and image patches.

    Args:
        input_ids: ``[L]`` long, with image-pad tokens expanded.
        token_types: 1 at image tokens, 0 elsewhere, ``[L]`` long.
        positions: position of each token: time, height, width, ``[3, L]`` long.
        next_position: position of the first completion token; later ones continue from it.
        pixel_values: patches of all images, ``[patches, channels]``; None without images.
        image_grid: frames, rows and columns of patches of each image, ``[images, 3]`` long; None without images.
        features: the encoded images, kept here if the vision tower is frozen.
    """

    input_ids: Tensor
    token_types: Tensor
    positions: Tensor
    next_position: int
    pixel_values: Tensor | None
    image_grid: Tensor | None
    features: Features | None = None

    @property
    def patches(self) -> int:
        """Number of patches of all images."""
        return 0 if self.pixel_values is None else len(self.pixel_values)


def encode(processor: Any, model: Any, family: Family, prompt: Prompt) -> EncodedPrompt:
    """Tokenize a prompt and split its images into patches, on the CPU.

    Raises:
        UserError: if the prompt's places and images do not match.
    """
    text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    places = text.count(processor.image_token)
    if places != len(prompt.images):
        raise UserError(f"row {prompt.id}: {places} image places in the prompt but {len(prompt.images)} images")
    inputs = processor(text=[text], images=prompt.images or None, return_tensors="pt")
    input_ids, grid = inputs["input_ids"][0], inputs.get("image_grid_thw")
    token_types = (input_ids == processor.image_token_id).long()
    # On the CPU, where the loops in the model's function do not synchronize with a device.
    positions = family.positions(model, input_ids[None], token_types[None], grid)
    return EncodedPrompt(
        input_ids=input_ids,
        token_types=token_types,
        positions=positions[:, 0],
        next_position=int(positions.max()) + 1,
        pixel_values=inputs.get("pixel_values"),
        image_grid=grid,
    )


def blank_prompt(side: int) -> Prompt:
    """Create a prompt with one black image of ``side`` pixels, for a batch without images."""
    content = [{"type": "image"}, {"type": "text", "text": "."}]
    image = Image.new("RGB", (side, side))
    return Prompt("blank", "", "", [{"role": "user", "content": content}], [image], {})


def blank_text(token: int) -> EncodedPrompt:
    """Create an encoded prompt of one token, for an empty batch."""
    one = torch.zeros(1, dtype=torch.long)
    return EncodedPrompt(one + token, one, one.expand(3, 1), 1, None, None)


def collate(rows: list[EncodedPrompt], completions: list[Tensor], pad: int, side: str) -> dict[str, Tensor]:
    """Pad rows of prompt and completion into one batch.

    Args:
        rows: prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long (empty before generation).
        side: ``left`` for generation, ``right`` for training.

    Returns:
        ``input_ids``, ``attention_mask`` and ``mm_token_type_ids``, ``[N, L]`` each, and ``pixel_values`` and
        ``image_grid_thw`` of all images in row order if there are any.
    """
    lengths = [len(row.input_ids) + len(tokens) for row, tokens in zip(rows, completions, strict=True)]
    shape = (len(rows), max(lengths))
    input_ids = torch.full(shape, pad)
    mask = torch.zeros(shape, dtype=torch.long)
    types = torch.zeros(shape, dtype=torch.long)
    for i, (row, tokens) in enumerate(zip(rows, completions, strict=True)):
        start = shape[1] - lengths[i] if side == "left" else 0
        prompt_end = start + len(row.input_ids)
        input_ids[i, start:prompt_end] = row.input_ids
        input_ids[i, prompt_end : start + lengths[i]] = tokens
        mask[i, start : start + lengths[i]] = 1
        types[i, start:prompt_end] = row.token_types
    batch = {"input_ids": input_ids, "attention_mask": mask, "mm_token_type_ids": types}
    images = [row for row in rows if row.pixel_values is not None]
    if images:
        batch["pixel_values"] = torch.cat([row.pixel_values for row in images if row.pixel_values is not None])
        batch["image_grid_thw"] = torch.cat([row.image_grid for row in images if row.image_grid is not None])
    return batch
