"""Qwen3-VL's video processor without torchvision: which frames the policy sees, their sizes and their times."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata
from typing_extensions import override

from lit_g2rpo.experience import VideoHeader, VideoLimits

MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


class _InTorch(BaseVideoProcessor):
    """The three operations for which the stock processor calls torchvision."""

    @override
    def convert_to_rgb(self, video: Tensor) -> Tensor:  # type: ignore[override]
        # frames are decoded as RGB
        return video

    @override
    def resize(self, image: Tensor, size: SizeDict, resample: Any = None, *_: Any, **__: Any) -> Tensor:
        shape = int(size.height or 0), int(size.width or 0)
        mode = MODES[PILImageResampling(resample)]
        resized = interpolate(image.reshape(-1, *image.shape[-3:]), shape, mode=mode, antialias=True)
        return resized.reshape(*image.shape[:-2], *shape)

    @override
    def normalize(self, image: Any, mean: Any, std: Any, *_: Any, **__: Any) -> Any:
        return (image - mean[:, None, None]) / std[:, None, None]


@dataclass(slots=True, frozen=True)
class FramePlan:
    """The frames of a video that the policy sees.

    Args:
        numbers: number of each frame from the start of the file, ``T`` of them.
        rate: frames per second of the file.
        height: height after resizing, pixels.
        width: width after resizing, pixels.
    """

    numbers: list[int]
    rate: float
    height: int
    width: int


class VideoProcessor(Qwen3VLVideoProcessor, _InTorch):  # type: ignore[misc]
    """Choose, resize and cut frames exactly as the stock processor does.

    Args:
        **settings: those of the checkpoint.

    Raises:
        ValueError: if frames are resized in a way that torch has not.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.resample not in MODES:
            known = " or ".join(f"{mode.value} ({name})" for mode, name in MODES.items())
            raise ValueError(f"its videos are resized with resample {self.resample}; it must be {known}")
        # what None means, without a warning about it
        self.cap_pixels_per_frame: Any = bool(self.cap_pixels_per_frame)

    def plan(self, header: VideoHeader, limits: VideoLimits) -> FramePlan:
        """Choose the frames of a video, and their size.

        Args:
            limits: override the checkpoint's settings.
        """
        own = self._limited(limits)
        metadata = VideoMetadata(total_num_frames=header.count, fps=header.rate)
        numbers = own.sample_frames(metadata, num_frames=own.num_frames, fps=own.fps)
        least, most = own.size["shortest_edge"], own.size["longest_edge"]
        if limits.max_pixels:
            most = max(min(most, limits.max_pixels * len(numbers)), least)
        # without data, since only its shape is wanted
        frames = torch.empty(1, len(numbers), 3, header.height, header.width, dtype=torch.uint8, device="meta")
        height, width = own.resize(
            frames,
            SizeDict(shortest_edge=least, longest_edge=most),
            own.resample,
            factor=own.patch_size * own.merge_size,
            temporal_factor=own.temporal_patch_size,
            cap_pixels_per_frame=own.cap_pixels_per_frame,
        ).shape[-2:]
        return FramePlan([header.first + int(number) for number in numbers], header.rate, height, width)

    def resized(self, frame: Tensor, plan: FramePlan) -> Tensor:
        """Resize a frame, ``[3, H, W]`` uint8, as planned."""
        size = SizeDict(height=plan.height, width=plan.width)
        return _InTorch.resize(self, frame[None], size, self.resample)[0]

    def grid(self, plan: FramePlan) -> Tensor:
        """Count the pairs of frames, and the rows and columns of patches in each, ``[1, 3]`` long."""
        pairs = -(-len(plan.numbers) // self.temporal_patch_size)
        return torch.tensor([[pairs, plan.height // self.patch_size, plan.width // self.patch_size]])

    def _limited(self, limits: VideoLimits) -> VideoProcessor:
        own: Any = copy.copy(self)
        if limits.fps is not None:
            own.fps, own.num_frames = limits.fps, None
        own.min_frames = limits.min_frames or min(own.min_frames, limits.max_frames or own.min_frames)
        own.max_frames = limits.max_frames or max(own.max_frames, own.min_frames)
        most = limits.total_pixels or own.size["longest_edge"]
        own.size = SizeDict(shortest_edge=min(own.size["shortest_edge"], most), longest_edge=most)
        checked: VideoProcessor = own
        return checked
