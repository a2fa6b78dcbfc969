"""An image opened as plain RGB, or why it cannot be used."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps

from lit_g2rpo.errors import UserError

MAX_ASPECT_RATIO = 200

Source = str | os.PathLike[str] | bytes | Image.Image
"""Where an image is: its file, the content of one, or the image itself."""


class ImageError(UserError):
    """An image that cannot be used; the message names the file and the reason."""


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Put the place of the row in front of the message of an image that cannot be used."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{place}: {error}") from error


def load_image(source: Source, exif_rotation: bool = False) -> Image.Image:
    """Decode an image in full, the first frame of an animation.

    Transparency is laid on white; 16-bit grey is scaled to 8 bit.

    Args:
        exif_rotation: turn it as its EXIF data ask; off where boxes are annotated on the stored pixels, as
            OneThinker's are.

    Raises:
        ImageError: if the file is missing, is no image, is cut off, is too large, too elongated, or has pixels
            that do not map to 8 bit.
    """
    with _opened(source) as image:
        image.load()
        return _rgb(ImageOps.exif_transpose(image) if exif_rotation else image, _name(source))


def image_size(source: Source, exif_rotation: bool = False) -> tuple[int, int]:
    """Read width and height of an image in pixels from its header, without decoding it.

    Raises:
        ImageError: if the file is missing, is no image, is too large or too elongated.
    """
    with _opened(source) as image:
        turned = exif_rotation and image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else image.size


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            _check_sides(source, name)
            yield source
            return
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_sides(image, name)
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Pillow names the memory that the bytes were in
        reason = "no image that can be read" if "BytesIO" in reason else reason
        raise ImageError(f"{name}: {reason}") from error


def _check_sides(image: Image.Image, name: str) -> None:
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        size = f"{image.width} x {image.height}"
        raise ImageError(f"{name}: {size} pixels, but the sides may differ {MAX_ASPECT_RATIO}-fold")


def _name(source: Any) -> str:
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else str(getattr(source, "filename", source))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow would clip every value above 255 to white.
        image = image.convert("I")
        low, high = image.getextrema()
        if not 0 <= low <= high <= 65535:  # type: ignore[operator]
            raise ImageError(f"{name}: grey values {low}..{high} do not fit 16 bit; save the image with 8 bit")
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels; save the image with 8 bit")
    return image.convert("RGB")
