"""Lengths of prompts including their images and videos, computed without decoding them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.steps import each

MEASURED = 2000
"""Evenly spaced rows that are measured before training, which takes a few seconds."""


class LongPrompt(UserError):
    """A prompt that is longer than the run allows; cutting it could cut through an image."""


@runtime_checkable
class Outlined(Protocol):
    """Rows that know the size of their images without opening them."""

    def __len__(self) -> int: ...

    def outline(self, index: int) -> tuple[Prompt, list[tuple[int, int]]]:
        """Read a row: the prompt without its images but with its videos, and width and height of each image, pixels."""
        ...


def image_tokens(processor: Any, width: int, height: int) -> int:
    """Count the image-pad tokens of an image of a given size, pixels, after resizing."""
    images = processor.image_processor
    patches: int = images.get_number_of_image_patches(height, width)
    return patches // int(images.merge_size) ** 2


def expanded_length(processor: Any, prompt: Prompt, sizes: Sequence[tuple[int, int]] | None = None) -> int:
    """Count the tokens of a prompt as the model sees it, with image and video pads expanded.

    Args:
        processor: the policy's processor.
        sizes: width and height of each of its images, pixels; None uses the opened images.

    Raises:
        UserError: if the header of a video cannot be read.
    """
    sizes = [image.size for image in prompt.images] if sizes is None else sizes
    text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    for video in prompt.videos:
        text = text.replace(processor.video_token, processor.video_text(video), 1)
    # the template writes one pad token for each image
    return len(processor.tokenizer(text)["input_ids"]) + sum(image_tokens(processor, *size) - 1 for size in sizes)


def check_prompt(prompt: Prompt, limit: int | None) -> None:
    """Refuse a prepared prompt that is too long.

    Args:
        prompt: the prompt; it passes if it is not encoded yet.
        limit: longest prompt, tokens; None for no limit.

    Raises:
        LongPrompt: if it is longer.
    """
    if limit is not None and prompt.encoded is not None and len(prompt.encoded.input_ids) > limit:
        raise _too_long(prompt, len(prompt.encoded.input_ids), limit)


def check_lengths(processor: Any, rows: Outlined, limit: int) -> None:
    """Refuse rows whose prompt is too long, before training; of many rows, check an evenly spaced sample.

    Args:
        processor: the policy's processor.
        limit: longest prompt, tokens.

    Raises:
        LongPrompt: naming the first such row.
    """
    for index in each(range(0, len(rows), -(-len(rows) // MEASURED)), "measuring prompts", "rows"):
        try:
            prompt, sizes = rows.outline(index)
        except ImageError:
            continue  # opening the row later counts or raises this
        length = expanded_length(processor, prompt, sizes)
        if length > limit:
            raise _too_long(prompt, length, limit)


def _too_long(prompt: Prompt, length: int, limit: int) -> LongPrompt:
    return LongPrompt(
        f"row {prompt.id}: its prompt has {length} tokens with its images and videos; data.max_prompt_tokens allows "
        f"{limit}; allow more, lower model.policy.max_pixels or data.video.total_pixels, or take the row out, as "
        "data.long_prompts: skip does in training"
    )
