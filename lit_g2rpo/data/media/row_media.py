"""The media of a row: its images, and its videos, which the policy reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from lit_g2rpo.data.media.image_paths import image_sources, inside
from lit_g2rpo.data.media.images import image_size, load_image, placed
from lit_g2rpo.data.media.videos import Clip
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import VideoLimits


class Opening(Protocol):
    """How to open the files of a row; a ``RowReader`` has these attributes.

    Attributes:
        image_root: folder that paths are relative to.
        exif_rotation: rotate images as their EXIF data says.
        video: number and size of the frames read from a video.
    """

    image_root: Path
    exif_rotation: bool
    video: VideoLimits


def clips(row: dict[str, Any], image_root: Path, place: str, limits: VideoLimits | None = None) -> list[Clip]:
    """Find the videos of a row in canonical shape.

    Args:
        limits: number and size of the frames to read; None for the checkpoint's own.

    Raises:
        UserError: if a path leaves the folder, or a clip is invalid; an ``ImageError`` if it is not a file.
    """
    found = []
    for video in row.get("videos") or []:
        start, end = 0.0, None
        if isinstance(video, dict):
            start, end = video.get("video_start") or 0.0, video.get("video_end")
            video = video["video"]
        numbers = all(type(value) in (int, float) for value in (start, 0 if end is None else end))
        if not numbers or start < 0 or (end is not None and not start < end):
            raise UserError(f"{place}: a video from {start!r} to {end!r}; give seconds, the start before the end")
        source = inside(video, image_root, place, "video") if isinstance(video, str) else video
        found.append(Clip(source, start, end, limits or VideoLimits(), place))
    return found


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return the texts that a row in canonical shape shows, the question last."""
    earlier = row.get("earlier_turns")
    return [*(turn["content"] for turn in earlier), row["problem"]] if earlier else [row["problem"]]


def open_media(row: dict[str, Any], opening: Opening, place: str) -> tuple[list[Image.Image], list[Clip]]:
    """Decode the images of a row in canonical shape, and open its videos.

    Returns:
        The images, RGB, and the videos.

    Raises:
        ImageError: naming the row, if an image is unusable, or the header of a video cannot be read.
    """
    videos, images = clips(row, opening.image_root, place, opening.video), image_sources(row, opening.image_root, place)
    for video in videos:
        video.header()
    with placed(place):
        return [load_image(source, opening.exif_rotation) for source in images], videos


def media_sizes(row: dict[str, Any], opening: Opening, place: str) -> tuple[list[tuple[int, int]], list[Clip]]:
    """Read the headers of a row's images and videos.

    Returns:
        Width and height of each image, pixels, and the videos.

    Raises:
        ImageError: naming the row, if the header of an image or video cannot be read.
    """
    videos, images = clips(row, opening.image_root, place, opening.video), image_sources(row, opening.image_root, place)
    for video in videos:
        video.header()
    with placed(place):
        return [image_size(source, opening.exif_rotation) for source in images], videos
