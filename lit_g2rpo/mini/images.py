"""Drawing of the 64 x 64 images of the mini tasks: real digits, bars and shapes on a darkened photograph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_g2rpo.mini import sources

SIDE = 64
INK = 70
COLOURS = np.array([[255, 70, 70], [80, 230, 90], [110, 140, 255], [250, 220, 60], [245, 245, 245]], dtype=np.float32)

Box = tuple[int, int, int, int]


@dataclass(slots=True)
class Item:
    """Something drawn on a canvas.

    Args:
        kind: `digit`, `cross`, `ring` or `bar`.
        value: label of a digit, height of a bar in chart units, 0 otherwise.
        box: left, top, right and bottom edge, pixels.
    """

    kind: str
    value: int
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Return the center of the box, pixels: x, y."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(slots=True)
class Canvas:
    """An image under construction: colors, `[SIDE, SIDE, 3]`, from 0 to 255, and the items drawn so far.

    Args:
        rng: source of every random choice of the drawing.
        split: split of the digits and photographs.
    """

    rng: np.random.Generator
    split: str
    pixels: NDArray[np.float32] = field(init=False)
    items: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        photos = sources.photographs(self.split)
        photo = photos[int(self.rng.integers(len(photos)))]
        top, left = (int(self.rng.integers(limit - SIDE)) for limit in photo.shape[:2])
        grey = photo[top : top + SIDE, left : left + SIDE].mean(axis=2, keepdims=True)
        self.pixels = np.repeat(grey * 70 + self.rng.uniform(0, 20), 3, axis=2).astype(np.float32)

    def image(self) -> Image.Image:
        """Return the finished image, RGB, `SIDE` x `SIDE` pixels."""
        return Image.fromarray(np.clip(self.pixels, 0, 255).astype(np.uint8))

    def color(self) -> NDArray[np.float32]:
        """Draw a random color, `[3]`."""
        chosen: NDArray[np.float32] = COLOURS[int(self.rng.integers(len(COLOURS)))]
        return chosen

    def digit_stamp(self, label: int, height: int, width_limit: int) -> NDArray[np.float32]:
        """Pick a handwritten digit of the split, rotate it slightly and crop it to its ink.

        Args:
            label: which digit.
            height: height, pixels.
            width_limit: largest width, pixels.

        Returns:
            Ink, `[height, width]`, from 0 to 1.
        """
        images, _ = sources.digits(self.split)
        source = Image.fromarray(images[label][int(self.rng.integers(len(images[label])))])
        turned = source.rotate(float(self.rng.uniform(-10, 10)), Image.Resampling.BILINEAR)
        cut = turned.crop(turned.point(lambda ink: 255 * (ink > INK)).getbbox())
        width = min(max(round(height * cut.width / cut.height), 4), width_limit)
        return np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / np.float32(255)

    def stamp(self, kind: str, value: int, ink: NDArray[np.float32], left: int, top: int) -> Item:
        """Blend ink in a random color, and record the item.

        Args:
            ink: opacity, `[height, width]`, from 0 to 1.
            left: left edge, pixels.
            top: top edge, pixels.
        """
        height, width = ink.shape
        area = self.pixels[top : top + height, left : left + width]
        area += ink[:, :, None] * (self.color() - area)
        item = Item(kind, value, (left, top, left + width, top + height))
        self.items.append(item)
        return item

    def free_spot(self, width: int, height: int, gap: int = 2) -> tuple[int, int] | None:
        """Look for a free place.

        Args:
            width: width, pixels.
            height: height, pixels.
            gap: distance to keep from other items, pixels.

        Returns:
            Left and top edge; None if twenty tries found none.
        """
        for _ in range(20):
            left, top = int(self.rng.integers(SIDE - width + 1)), int(self.rng.integers(SIDE - height + 1))
            if all(
                left >= right + gap or left + width + gap <= x or top >= bottom + gap or top + height + gap <= y
                for x, y, right, bottom in (item.box for item in self.items)
            ):
                return left, top
        return None


def shape_ink(kind: str, side: int) -> NDArray[np.float32]:
    """Return the ink, `[side, side]`, 0 or 1, of a `cross` or a `ring` (a square outline)."""
    ink = np.zeros((side, side), dtype=np.float32)
    if kind == "cross":
        middle = slice(side // 2 - 1, side // 2 + 1)
        ink[middle, :] = ink[:, middle] = 1
    else:
        ink[:2], ink[-2:], ink[:, :2], ink[:, -2:] = 1, 1, 1, 1
    return ink
