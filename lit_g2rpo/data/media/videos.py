"""Videos as images: evenly spaced frames, read through PyAV."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError

# no playlists or scripts, which would open other files and URLs
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"


@dataclass(slots=True, frozen=True)
class VideoLimits:
    """Configure how many frames of a video are read, and how large they may be.

    Args:
        fps: frames per second of video.
        min_frames: fewest frames, unless the video has fewer.
        max_frames: most frames; in a longer video they are farther apart.
        max_pixels: largest frame, pixels; larger ones are scaled down.

    Raises:
        UserError: if a number is not positive, or ``min_frames`` exceeds ``max_frames``.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 64
    max_pixels: int = 131_072

    def __post_init__(self) -> None:
        for name in ("fps", "min_frames", "max_frames", "max_pixels"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"data.video.{name} is {getattr(self, name)}; it must be more than 0")
        if self.min_frames > self.max_frames:
            raise UserError(f"data.video.min_frames {self.min_frames} is more than max_frames {self.max_frames}")


@dataclass(slots=True, frozen=True)
class Clip:
    """A video or a clip of one.

    Args:
        source: its path, or the content of a file.
        start: first second to read.
        end: last second to read; None for the end.
    """

    source: Path | bytes
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return f"video of {len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)


def videos_can_be_read() -> bool:
    """Return whether the extra ``video`` is installed."""
    return find_spec("av") is not None


def container_name(clip: Clip) -> str:
    """Find the usual extension of a video's file, without its dot.

    Raises:
        ImageError: if it is not a video.
    """
    with _opened(clip) as (container, _):
        names: list[str] = container.format.name.split(",")
    return "mp4" if "mp4" in names else names[0]


def frame_plan(clip: Clip, limits: VideoLimits) -> tuple[list[float], tuple[int, int]]:
    """Compute from the header of a video the times and the size of the frames to read.

    Returns:
        The times, seconds from the start of the file, and width and height, pixels.

    Raises:
        ImageError: if it is not a video, does not state its duration, or ends before the requested clip.
    """
    with _opened(clip) as (container, stream):
        return _plan(clip, limits, container, stream)


def load_frames(clip: Clip, limits: VideoLimits) -> tuple[list[float], list[Image.Image]]:
    """Decode the frames of a video as stored, without applying rotation metadata.

    Returns:
        Their times, seconds from the start of the file, and the frames, RGB.

    Raises:
        ImageError: as in ``frame_plan``, or if the video is truncated.
    """
    with _opened(clip) as (container, stream):
        times, size = _plan(clip, limits, container, stream)
        origin, rate = _origin(stream), float(stream.average_rate or 25)
        if clip.start:
            container.seek(int((origin + clip.start) / stream.time_base), stream=stream)
        frames: list[Image.Image] = []
        shown, end = None, 0.0
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            end = frame.time - origin
            # the frame shown at a time is the last one that began by then
            while len(frames) < len(times) and end > times[len(frames)] + 0.5 / rate:
                frames.append((shown or frame).to_image().resize(size, Image.Resampling.BICUBIC))
            if len(frames) == len(times):
                break
            shown = frame
        # the last frame according to the header may be slightly after the real one
        while shown is not None and len(frames) < len(times) and times[len(frames)] <= end + max(1.5 / rate, 0.5):
            frames.append(shown.to_image().resize(size, Image.Resampling.BICUBIC))
    if len(frames) < len(times):
        raise ImageError(f"{clip}: is cut off at second {end:.1f}; a frame at {times[len(frames)]:.1f} is needed")
    return times, frames


@contextmanager
def _opened(clip: Clip) -> Iterator[tuple[Any, Any]]:
    import av

    with ExitStack() as stack:
        try:
            if isinstance(clip.source, bytes):
                file: Any = io.BytesIO(clip.source)
            else:
                file = stack.enter_context(clip.source.open("rb"))
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
            container = stack.enter_context(av.open(file, options=options))
            if not container.streams.video:
                raise ImageError(f"{clip}: holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
        except (OSError, ValueError, EOFError, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ImageError(f"{clip}: no video that can be read ({reason})") from error


def _plan(clip: Clip, limits: VideoLimits, container: Any, stream: Any) -> tuple[list[float], tuple[int, int]]:
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / 1e6
    else:
        raise ImageError(f"{clip}: does not say how long it is; write it anew, for example as mp4")
    width, height = stream.width, stream.height
    if not width or not height or max(width, height) > 200 * min(width, height):
        raise ImageError(f"{clip}: frames of {width} x {height} pixels; the sides may differ 200-fold")
    if clip.start >= duration:
        raise ImageError(f"{clip}: starts at second {clip.start}, but the video ends at {duration:.1f}")
    rate = float(stream.average_rate or 25)
    last = max(min(duration, clip.end or duration) - 1 / rate, clip.start)
    length = last + 1 / rate - clip.start
    count = min(max(int(length * limits.fps), limits.min_frames), limits.max_frames, max(round(length * rate), 1))
    step = (last - clip.start) / max(count - 1, 1)
    scale = min(1.0, (limits.max_pixels / (width * height)) ** 0.5)
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    return [clip.start + i * step for i in range(count)], size


def _origin(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)
