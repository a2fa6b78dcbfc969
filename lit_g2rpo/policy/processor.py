"""A Qwen3-VL processor for images only, which needs neither torchvision nor a video processor."""

from __future__ import annotations

import os
from typing import Any, Self

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from typing_extensions import override

IMAGE_TOKEN = "<|image_pad|>"


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """Turn chat messages and PIL images into model inputs.

    The stock class fails to load without torchvision, and `AutoProcessor` then returns a bare tokenizer silently.

    Args:
        chat_template: Jinja template of the conversation; the tokenizer's own if None.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
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
        # what is saved: no video processor
        return ["image_processor", "tokenizer"]

    @classmethod
    @override
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # of a folder without one, transformers makes an empty tokenizer
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            raise ValueError(f"its tokenizer has no token {IMAGE_TOKEN}: tokenizer.json is missing, or another model's")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(image_processor, tokenizer)
