"""Opening of images as plain RGB, or the reason why one cannot be used."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_g2rpo.errors import UserError

MAX_ASPECT_RATIO = 200
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Accepted formats, by Pillow's names; some other formats start programs or read other files."""

Source = str | os.PathLike[str] | bytes | Image.Image
"""The source of an image: its path, the content of a file, or the image itself."""


class ImageError(UserError):
    """An image that cannot be used; the message names the file and the reason."""


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Prefix the message of an unusable image with the place of its row."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{place}: {error}") from error


def load_image(source: Source, exif_rotation: bool = False) -> Image.Image:
    """Decode an image in full, the first frame of an animation.

    Transparent images get a white background; 16-bit gray is scaled to 8 bits.

    Args:
        exif_rotation: rotate it as its EXIF data says; turn off if boxes are annotated on the stored pixels, as
            OneThinker's are.

    Raises:
        ImageError: if the file is missing, is not an image of ``FORMATS``, is truncated, is too large, too elongated,
            or has pixels that do not map to 8 bits.
    """
    with opened(source) as image:
        image.load()
        return _rgb(ImageOps.exif_transpose(image) if exif_rotation else image, _name(source))


def image_size(source: Source, exif_rotation: bool = False) -> tuple[int, int]:
    """Read width and height of an image in pixels from its header, without decoding it.

    Raises:
        ImageError: if the file is missing, is not an image of ``FORMATS``, is too large or too elongated.
    """
    with opened(source) as image:
        turned = exif_rotation and image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else image.size


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels, and keep it open inside the context.

    Raises:
        ImageError: if it cannot be used, whatever Pillow raises when opening it or inside the context.
    """
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            _check(source, name)
            yield source
            return
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _check(image, name)
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: no image that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise anything on a broken file: struct.error, TypeError, ...
        raise ImageError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check(image: Image.Image, name: str) -> None:
    # of an image opened elsewhere; Pillow calls a JPEG with several pictures MPO
    if image.format not in (None, "MPO", *FORMATS):
        raise ImageError(f"{name}: an image of format {image.format}; give one of {', '.join(FORMATS)}")
    if not min(image.size):
        raise ImageError(f"{name}: has no pixels ({image.width} x {image.height})")
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
