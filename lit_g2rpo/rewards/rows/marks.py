"""Image marks that other formats write into questions."""

import re
from collections.abc import Sequence
from typing import Any

from lit_g2rpo.rewards.rows.turns import IMAGE, VIDEO, Asked

NUMBERED = re.compile(r"<\|?image[ _-]?(\d{1,2})\|?>", re.IGNORECASE)
"""Numbered image marks, as in MMMU."""
OTHER = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image(?:_pad)?\|>|<(?:img|image|imagehere|image_placeholder)>",
    re.IGNORECASE,
)
LABEL = re.compile(r"<\|object_ref_(?:start|end)\|>")
"""Tokens that Qwen2-VL writes around the name of an object."""
INSIDE = re.compile(r"<img>([^<>]+\.[A-Za-z]{3,4})</img>")
"""Paths as Qwen-VL wrote them into questions."""


def place_images(
    asked: Asked, options: list[str], images: list[Any], start: int | None = None
) -> tuple[list[str], list[Any]]:
    """Replace other image marks in the turns with ``<image>``, and order the images by numbered marks.

    Args:
        asked: the turns; their texts are changed in place.
        options: the options of the row.
        images: its images.
        start: number of the first image, if the image columns are numbered.

    Returns:
        The options with their marks written out, and the images in the order of their marks.

    Raises:
        ValueError: if a mark has a number that no image has.
    """
    if not images and "<" not in asked.problem and not asked.earlier:
        return options, images
    asked.problem = LABEL.sub("", asked.problem)
    texts = [*(text for _, text in asked.earlier), asked.problem]
    if any(IMAGE in text for text in texts):
        return options, images
    if not images:
        images = [path for text in texts for path in INSIDE.findall(text)]
        texts = [INSIDE.sub(IMAGE, text) for text in texts]
    elif any(NUMBERED.search(text) for text in (*texts, *options)):
        texts, options, images = _numbered(texts, options, images, start)
    else:
        texts = [OTHER.sub(IMAGE, text) for text in texts]
    asked.earlier = [(role, text) for (role, _), text in zip(asked.earlier, texts, strict=False)]
    asked.problem = texts[-1]
    return options, images


def _numbered(
    texts: list[str], options: list[str], images: Sequence[Any], start: int | None
) -> tuple[list[str], list[str], list[Any]]:
    said = [int(number) for text in (*texts, *options) for number in NUMBERED.findall(text)]
    first = min(1, *said) if start is None else start
    order: list[int] = []
    if absent := [number for number in said if not 0 <= number - first < len(images)]:
        raise ValueError(f"its question names image {absent[0]}, but it has {len(images)} images, from {first} on")

    def shown(match: re.Match[str]) -> str:
        number = int(match[1])
        if number in order:
            return f"image {number}"
        order.append(number)
        return IMAGE

    texts = [NUMBERED.sub(shown, text) for text in texts]
    # images that only the options name are shown after the question
    for number in sorted(set(said) - set(order)):
        order.append(number)
        texts[-1] += f"\nImage {number}: {IMAGE}"
    options = [NUMBERED.sub(lambda match: f"image {match[1]}", option) for option in options]
    unnamed = [number for number in range(first, first + len(images)) if number not in order]
    texts[-1] = IMAGE * len(unnamed) + texts[-1]
    # they go before the last turn, after the images of earlier turns
    ahead = sum(text.count(IMAGE) for text in texts[:-1])
    order[ahead:ahead] = unnamed
    return texts, options, [images[number - first] for number in order]


def marks_in_front(asked: Asked, images: int, videos: int) -> None:
    """Write the marks of images and videos before the question if no turn has any."""
    texts = "".join([*(text for _, text in asked.earlier), asked.problem])
    for mark, count in ((IMAGE, images), (VIDEO, videos)):
        if mark not in texts:
            asked.problem = mark * count + asked.problem
