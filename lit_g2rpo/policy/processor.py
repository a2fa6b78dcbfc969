"""A Qwen3-VL processor for images only, which needs neither torchvision nor a video processor."""

from __future__ import annotations

import os
from typing import Any, Self

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """Turn chat messages and PIL images into model inputs.

    The stock class fails to load without torchvision, and `AutoProcessor` then returns a bare tokenizer silently.

    Args:
        image_processor: Image processor that runs on PIL and numpy.
        tokenizer: Tokenizer that knows Qwen's vision tokens.
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
    def get_attributes(cls) -> list[str]:
        """Names of the parts that are saved: no video processor."""
        return ["image_processor", "tokenizer"]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Load the processor of a Hugging Face folder or model name.

        Args:
            pretrained_model_name_or_path: Folder or model name.
            **kwargs: Passed on to the tokenizer and the image processor, such as `revision`.

        Returns:
            The processor.

        Raises:
            OSError: If the folder lacks tokenizer or image processor files.
        """
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(image_processor, tokenizer)
