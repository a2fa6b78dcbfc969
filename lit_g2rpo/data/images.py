"""Opens an image file as plain RGB, or says why it cannot be used."""

import os

from PIL import Image

from lit_g2rpo.errors import UserError

MAX_ASPECT_RATIO = 200


class ImageError(UserError):
    """An image that cannot be used; the message names the file and the reason."""


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Decodes an image file in full, the first frame of an animation.

    Transparency is laid on white; 16-bit grey is scaled to 8 bit; rotation noted in EXIF is not applied, because
    boxes are annotated on the stored pixels.

    Args:
        path: the file.

    Returns:
        The image, RGB.

    Raises:
        ImageError: if the file is missing, is no image, is cut off, is too large, too elongated, or has pixels
            that do not map to 8 bit.
    """
    try:
        with Image.open(path) as image:
            image.load()
            rgb = _rgb(image, path)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    if max(rgb.size) > MAX_ASPECT_RATIO * min(rgb.size):
        raise ImageError(f"{path}: {rgb.width} x {rgb.height} pixels, but the sides may differ {MAX_ASPECT_RATIO}-fold")
    return rgb


def _rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow would clip every value above 255 to white.
        image = image.convert("I")
        low, high = image.getextrema()
        if not 0 <= low <= high <= 65535:  # type: ignore[operator]
            raise ImageError(f"{path}: grey values {low}..{high} do not fit 16 bit; save the image with 8 bit")
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif image.mode == "F":
        raise ImageError(f"{path}: floating-point pixels; save the image with 8 bit")
    return image.convert("RGB")
