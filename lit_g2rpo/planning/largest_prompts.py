"""Search for the prompts that need the most memory, without opening all rows."""

from typing import Any

from lit_g2rpo.data.lengths import MEASURED, expanded_length
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

OPENED = 32
"""Most rows opened if rows must be opened to be measured."""

GOLDEN = (5**0.5 - 1) / 2


def extreme_prompts(processor: Any, dataset: Any, limit: int) -> list[Prompt]:
    """Find the longest prompt and the one with the most pixels among evenly spread rows.

    Args:
        dataset: the training rows, at least one.
        limit: longest prompt that the run accepts, tokens; longer ones are skipped.

    Returns:
        One prompt or two, opened.

    Raises:
        UserError: if none of the rows can be used.
    """
    outlined = hasattr(dataset, "outline")
    measured, reason = [], f"longer than data.max_prompt_tokens {limit}"
    for index in spread(len(dataset), MEASURED if outlined else OPENED):
        try:
            prompt, sizes = dataset.outline(index) if outlined else (dataset[index], None)
        except ImageError as error:
            reason = str(error)
            continue
        sizes = [image.size for image in prompt.images] if sizes is None else sizes
        length = expanded_length(processor, prompt, sizes)
        if length <= limit:
            pixels = sum(width * height for width, height in sizes) + sum(map(processor.video_pixels, prompt.videos))
            measured.append((length, pixels, index))
    found: dict[int, Prompt] = {}
    for key in (lambda row: row[:2], lambda row: row[1]):
        for *_, index in sorted(measured, key=key, reverse=True):
            if index in found:
                break
            try:
                prompt = dataset[index]
                for video in prompt.videos:
                    processor.frames(video)
                found[index] = prompt
                break
            except ImageError as error:
                reason = str(error)
    if not found:
        raise UserError(f"none of the rows that were tried can be used; the last reason: {reason}")
    return list(found.values())


def spread(rows: int, count: int) -> list[int]:
    """Choose at most ``count`` row numbers, in order, without a period that could align with alternating tasks."""
    if rows <= count:
        return list(range(rows))
    return sorted({int(rows * (i * GOLDEN % 1)) for i in range(count)})
