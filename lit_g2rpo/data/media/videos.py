"""Video files and clips of them, read through PyAV."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.experience import Video, VideoHeader, VideoLimits

# no playlists or scripts, which would open other files and URLs
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"

SHOWN = 8
"""Most frames of a video that are kept for logs and rewards."""


@dataclass(slots=True)
class Clip:
    """A video or a clip of one.

    Args:
        source: its path, or the content of a file.
        start: first second to read, from the start of the file.
        end: last second to read; None for the end.
        limits: number and size of the frames to read.
        place: how messages name the row; None for no name.
        shown: evenly spaced frames of the last reading, RGB.
    """

    source: Path | bytes
    start: float = 0.0
    end: float | None = None
    limits: VideoLimits = field(default_factory=VideoLimits)
    place: str | None = None
    shown: list[Image.Image] = field(default_factory=list)
    _known: VideoHeader | None = field(default=None, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        name = f"video of {len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)
        return name if self.place is None else f"{self.place}: {name}"

    def header(self) -> VideoHeader:
        """Read the header of the file, and its first frame, which says how it is rotated.

        Raises:
            ImageError: if it is not a video, does not state its duration, or ends before the clip.
        """
        if self._known is None:
            with _opened(self) as (container, stream):
                self._known = _header(self, container, stream)
        return self._known

    def read(self, numbers: Sequence[int], resize: Callable[[Tensor], Tensor]) -> Tensor:
        """Decode frames, rotated as the file says.

        Args:
            numbers: their numbers from the start of the file, ascending, ``T`` of them.
            resize: called with each frame, RGB, ``[3, H, W]`` uint8.

        Returns:
            The resized frames, ``[T, 3, h, w]`` uint8.

        Raises:
            ImageError: as in ``header``, or if the video is truncated.
        """
        rate = self.header().rate
        times = [number / rate for number in numbers]
        with _opened(self) as (container, stream):
            origin = _origin(stream)
            if times[0]:
                container.seek(int((origin + times[0]) / stream.time_base), stream=stream)
            frames: list[Tensor] = []
            latest, end = None, 0.0
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                end = frame.time - origin
                # the frame shown at a time is the last one that began by then
                while len(frames) < len(times) and end > times[len(frames)] + 0.5 / rate:
                    frames.append(resize(_pixels(latest or frame)))
                if len(frames) == len(times):
                    break
                latest = frame
            # the last frame according to the header may be slightly after the real one
            while latest is not None and len(frames) < len(times) and times[len(frames)] <= end + max(1.5 / rate, 0.5):
                frames.append(resize(_pixels(latest)))
        if len(frames) < len(times):
            raise ImageError(f"{self}: is cut off at second {end:.1f}; a frame at {times[len(frames)]:.1f} is needed")
        few = [round(i * (len(frames) - 1) / (SHOWN - 1)) for i in range(SHOWN)] if len(frames) > SHOWN else None
        chosen = frames if few is None else [frames[i] for i in few]
        self.shown = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in chosen]
        return torch.stack(frames)

    def read_all(self) -> None:
        """Decode the video to its end, to see whether that can be done.

        Raises:
            ImageError: as in ``read``.
        """
        header = self.header()
        self.read([header.first, header.first + header.count - 1], lambda frame: frame)


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


def _header(clip: Clip, container: Any, stream: Any) -> VideoHeader:
    """Read which frames a clip has.

    Source: ``calculate_video_frame_range`` of qwen-vl-utils, for the ends of a clip.
    """
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    if stream.frames:
        total = stream.frames
    elif stream.duration and stream.time_base:
        total = round(float(stream.duration * stream.time_base) * rate)
    elif container.duration:
        total = round(container.duration / 1e6 * rate)
    else:
        raise ImageError(f"{clip}: does not say how long it is; write it anew, for example as mp4")
    width, height = stream.width, stream.height
    if not width or not height or max(width, height) > 200 * min(width, height):
        raise ImageError(f"{clip}: frames of {width} x {height} pixels; the sides may differ 200-fold")
    # a thousandth of a frame, since 1.1 seconds times 30 is slightly more than 33
    first = max(math.ceil(clip.start * rate - 1e-3), 0)
    last = total - 1 if clip.end is None else min(math.floor(clip.end * rate + 1e-3), total - 1)
    if first >= total:
        raise ImageError(f"{clip}: starts at second {clip.start}, but the video ends at {total / rate:.1f}")
    if last <= first:
        raise ImageError(
            f"{clip}: has one frame from {clip.start} to {clip.end} seconds; a video needs 2, so give an image"
        )
    # the first frame alone says how the video is rotated
    frame = next(container.decode(stream), None)
    if frame is not None and _quarter_turns(frame) % 2:
        width, height = height, width
    return VideoHeader(first, last - first + 1, rate, width, height)


def _origin(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _quarter_turns(frame: Any) -> int:
    """Return how many times to turn a frame by 90 degrees, counterclockwise."""
    return int(round(frame.rotation / 90) % 4)


def _pixels(frame: Any) -> Tensor:
    """Convert a frame to RGB as it is shown, ``[3, H, W]`` uint8."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    return torch.rot90(pixels, _quarter_turns(frame), (1, 2)).contiguous()


if TYPE_CHECKING:
    # what the policy reads
    _: type[Video] = Clip
