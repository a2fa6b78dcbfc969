"""A Qwen3-VL processor for images only, without torchvision or a video processor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_processing_utils import BaseVideoProcessor
from typing_extensions import override

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_SETTINGS = "video_preprocessor_config.json"
SHARED = ("do_convert_rgb", "image_mean", "image_std", "merge_size", "patch_size", "size", "temporal_patch_size")
"""Settings that the stock video processor shares with the image processor."""


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """Convert chat messages and PIL images to model inputs.

    The stock class requires torchvision. It can load every folder that this one saves.

    Args:
        chat_template: Jinja template of the conversation; the tokenizer's own if None.
        video: settings of the stock video processor, kept for saving; None derives them from the images'.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        video: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.video_settings = video
        for name in ("image", "video", "vision_start", "vision_end"):
            token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        # Skips Qwen3VLProcessor.__init__, which insists on a video processor.
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
            video = BaseVideoProcessor.get_video_processor_dict(pretrained_model_name_or_path, **kwargs)[0]
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
        images = self.image_processor.to_dict()
        shared = {"video_processor_type": "Qwen3VLVideoProcessor"} | {name: images[name] for name in SHARED}
        settings = json.dumps(
            (self.video_settings or shared) | {"processor_class": stock.__name__}, indent=2, sort_keys=True
        )
        (folder / VIDEO_SETTINGS).write_text(settings + "\n", encoding="utf-8")
        return saved
