"""The media of a row: its images, and its videos as images with times."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from lit_g2rpo.data.media.image_paths import image_sources, inside
from lit_g2rpo.data.media.images import image_size, load_image, placed
from lit_g2rpo.data.media.videos import Clip, VideoLimits, frame_plan, load_frames
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO

Shown = TypeVar("Shown")


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


def clips(row: dict[str, Any], image_root: Path, place: str) -> list[Clip]:
    """Find the videos of a row in canonical shape.

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
        found.append(Clip(inside(video, image_root, place, "video") if isinstance(video, str) else video, start, end))
    return found


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """Return the texts that a row in canonical shape shows, the question last."""
    earlier = row.get("earlier_turns")
    return [*(turn["content"] for turn in earlier), row["problem"]] if earlier else [row["problem"]]


def open_media(row: dict[str, Any], opening: Opening, place: str) -> tuple[list[str], list[Image.Image]]:
    """Decode the images and videos of a row in canonical shape.

    Returns:
        Its texts, the question last, with an ``<image>`` for each image and frame, and the images in that order, RGB.

    Raises:
        ImageError: naming the row, if an image or video is unusable.
    """
    videos, images = clips(row, opening.image_root, place), image_sources(row, opening.image_root, place)
    with placed(place):
        frames = [load_frames(clip, opening.video) for clip in videos]
        return place_frames(texts_of(row), [load_image(source, opening.exif_rotation) for source in images], frames)


def media_sizes(row: dict[str, Any], opening: Opening, place: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Read the sizes of a row's images and frames, without decoding them.

    Returns:
        Its texts, as from ``open_media``, and width and height of each image and frame, pixels.

    Raises:
        ImageError: naming the row, if the header of an image or video cannot be read.
    """
    videos, images = clips(row, opening.image_root, place), image_sources(row, opening.image_root, place)
    with placed(place):
        plans = [frame_plan(clip, opening.video) for clip in videos]
        sizes = [image_size(source, opening.exif_rotation) for source in images]
    return place_frames(texts_of(row), sizes, [(times, [size] * len(times)) for times, size in plans])


def place_frames(
    texts: Sequence[str], images: Sequence[Shown], videos: Sequence[tuple[list[float], list[Shown]]]
) -> tuple[list[str], list[Shown]]:
    """Replace each video in texts with its frames, each after its time.

    Args:
        texts: texts with an ``<image>`` for each image and a ``<video>`` for each video.
        videos: times in seconds, and frames, of each video.

    Returns:
        The texts with only images, and these images in order.

    Source: the format of times in Qwen3-VL's own processor.
    """
    if not videos:
        return list(texts), list(images)
    shown: list[Shown] = []
    image, video = iter(images), iter(videos)

    def placed_in(text: str) -> Iterator[str]:
        for part in re.split(f"({IMAGE}|{VIDEO})", text):
            if part == IMAGE:
                shown.append(next(image))
            elif part == VIDEO:
                times, frames = next(video)
                shown.extend(frames)
                part = "".join(f"<{time:.1f} seconds>{IMAGE}" for time in times)
            yield part

    return ["".join(placed_in(text)) for text in texts], shown
