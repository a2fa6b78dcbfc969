"""A Qwen3-VL processor without torchvision."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_utils import VideoMetadata
from typing_extensions import override

from lit_g2rpo.experience import Video
from lit_g2rpo.policy.video_processor import FramePlan, VideoProcessor

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_SETTINGS = "video_preprocessor_config.json"
SHARED = ("do_convert_rgb", "image_mean", "image_std", "merge_size", "patch_size", "temporal_patch_size")
"""Settings that the stock video processor shares with the image processor."""


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """Convert chat messages, PIL images and frames of videos to model inputs.

    The stock class requires torchvision. It can load every folder that this one saves.

    Args:
        chat_template: Jinja template of the conversation; the tokenizer's own if None.
        video: settings of the stock video processor; None for its defaults with the images' patches.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        video: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        images = image_processor.to_dict()
        shared = {"video_processor_type": "Qwen3VLVideoProcessor"} | {name: images[name] for name in SHARED}
        self.video_settings = video or shared
        # not an attribute of the stock class, which would check that torchvision is installed
        self.video_processor = VideoProcessor.from_dict(self.video_settings)
        for name in ("image", "video", "vision_start", "vision_end"):
            token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        # Skips Qwen3VLProcessor.__init__, which insists on the stock video processor.
        template = chat_template or tokenizer.chat_template
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=template)  # type: ignore[no-untyped-call]

    @classmethod
    @override
    def get_attributes(cls) -> list[str]:
        # saved attributes, without the video processor
        return ["image_processor", "tokenizer"]

    @classmethod
    @override
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # for a folder without a tokenizer, transformers creates an empty one
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            raise ValueError(f"its tokenizer has no token {IMAGE_TOKEN}: tokenizer.json is missing, or another model's")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs)
        try:
            video = VideoProcessor.get_video_processor_dict(pretrained_model_name_or_path, **kwargs)[0]
        except OSError:
            video = {}
        # for a folder without them, transformers returns the settings for images
        return cls(image_processor, tokenizer, video=video if "video_processor_type" in video else None)

    @override
    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Save the folder of a stock processor, which also needs video settings."""
        saved = super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        stock = next(kind for kind in type(self).__mro__ if kind.__module__.startswith("transformers."))
        for name in ("processor_config.json", "tokenizer_config.json"):
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(
                text.replace(f'"{type(self).__name__}"', f'"{stock.__name__}"'), encoding="utf-8"
            )
        settings = json.dumps(self.video_settings | {"processor_class": stock.__name__}, indent=2, sort_keys=True)
        (folder / VIDEO_SETTINGS).write_text(settings + "\n", encoding="utf-8")
        return saved

    def frames(self, video: Video) -> tuple[Tensor, VideoMetadata]:
        """Read the frames of a video that the checkpoint's settings and the video's limits ask for.

        Returns:
            The frames, resized, ``[T, 3, height, width]`` uint8, and their numbers and rate.

        Raises:
            UserError: if the video cannot be read.
        """
        plan = self.video_processor.plan(video.header(), video.limits)
        frames = video.read(plan.numbers, lambda frame: self.video_processor.resized(frame, plan))
        return frames, self._metadata(plan)

    def times(self, metadata: VideoMetadata) -> list[float]:
        """Return the mean time of each pair of frames, seconds from the start of the file."""
        pair: int = self.video_processor.temporal_patch_size
        times: list[float] = self._calculate_timestamps(list(metadata.frames_indices or ()), metadata.fps or 0, pair)
        return times

    def video_text(self, video: Video) -> str:
        """Write what a video becomes in a prompt, from its header: times and pad tokens."""
        plan = self.video_processor.plan(video.header(), video.limits)
        inputs = {"video_grid_thw": self.video_processor.grid(plan), "video_metadata": [self._metadata(plan)]}
        return self.replace_video_token(inputs, 0)

    def video_pixels(self, video: Video) -> int:
        """Count the pixels of the frames that the policy sees, from the video's header."""
        plan = self.video_processor.plan(video.header(), video.limits)
        return int(len(plan.numbers) * plan.height * plan.width)

    @staticmethod
    def _metadata(plan: FramePlan) -> VideoMetadata:
        return VideoMetadata(total_num_frames=len(plan.numbers), fps=plan.rate, frames_indices=list(plan.numbers))
