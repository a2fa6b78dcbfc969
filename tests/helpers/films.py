"""Films to read: made with PyAV, ten frames a second."""

import io
from collections.abc import Callable

from PIL import Image, ImageDraw

RATE = 10
Painter = Callable[[Image.Image, int], None]


def grey(image: Image.Image, number: int) -> None:
    """Frame ``n`` is of grey ``8 n``."""
    image.paste((8 * number % 256,) * 3, (0, 0, *image.size))


def square(image: Image.Image, number: int) -> None:
    """A red square moves to the right on blue ground, 2 pixels a frame."""
    image.paste((20, 40, 200), (0, 0, *image.size))
    left = 2 * number % max(image.width - 12, 1)
    ImageDraw.Draw(image).rectangle((left, 8, left + 11, 19), (220, 30, 30))


def light(image: Image.Image, number: int) -> None:
    """White from second 1 to second 3, else black."""
    image.paste((255 * (RATE <= number <= 3 * RATE),) * 3, (0, 0, *image.size))


def film(
    seconds: float = 3, size: tuple[int, int] = (64, 32), paint: Painter = grey, rotation: int = 0, kind: str = "mp4"
) -> bytes:
    """Encode a film.

    Args:
        rotation: how players turn it, degrees, counterclockwise.
        kind: container; its codec is MPEG-4.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(round(RATE * seconds)):
            image = Image.new("RGB", size)
            paint(image, number)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return buffer.getvalue()
