"""Shared parts of the speed benchmarks: a small policy, prompts of exact lengths, and a description of the machine."""

import json
import logging
import platform
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini.tokenizer import build_tokenizer
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor

PIXELS_PER_TOKEN_SIDE = 32
"""Patches of 16 pixels, merged 2 x 2: an image of side ``32 n`` becomes ``n * n`` tokens."""
TASK = "bench"


def bench_processor() -> ImageOnlyQwen3VLProcessor:
    """Build a processor whose end token is the vocabulary's last, so that one uniform number can force it.

    Returns:
        The processor, about 500 tokens, patches of 16 pixels.
    """
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=3)) for _ in range(300)]
    tokenizer = build_tokenizer(["user\n", "assistant\n", *words] * 3)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        size={"shortest_edge": PIXELS_PER_TOKEN_SIDE**2, "longest_edge": 1024**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return ImageOnlyQwen3VLProcessor(image_processor, tokenizer)


def tiny_policy(folder: Path, seed: int = 0) -> int:
    """Save a Qwen3-VL of about 6 M random parameters: 4 text layers of 256, 4 vision layers of 128 with DeepStack.

    Args:
        folder: Hugging Face folder for the policy and its processor.
        seed: seed of the weights.

    Returns:
        Number of parameters.
    """
    processor = bench_processor()
    tokenizer = processor.tokenizer
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_heads": 4,
            "out_hidden_size": 256,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 32**2,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def bench_prompts(count: int, image_tokens: int, text_tokens: int, images: int = 1, seed: int = 0) -> list[Prompt]:
    """Make prompts of exact lengths with noise as images.

    Args:
        count: number of prompts.
        image_tokens: tokens of each image, a square number; 0 for prompts without images.
        text_tokens: all other tokens, including the chat template but not the two around each image; at least 16.
        images: images per prompt.
        seed: seed of digits and pixels.

    Returns:
        The prompts; each digit of their text is one token.
    """
    processor, rng = bench_processor(), np.random.default_rng(seed)
    images = images if image_tokens else 0
    side = PIXELS_PER_TOKEN_SIDE * round(image_tokens**0.5)
    empty = processor.apply_chat_template([{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True)
    digits = text_tokens - len(processor.tokenizer(empty)["input_ids"])
    prompts = []
    for number in range(count):
        text = "".join(str(digit) for digit in rng.integers(0, 10, digits))
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        pictures = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(images)]
        messages = [{"role": "user", "content": content}]
        prompts.append(Prompt(f"{TASK}-{number}", TASK, "numerical", messages, pictures, {"number": number}))
    return prompts


def quiet() -> None:
    """Keep libraries from printing between the figures."""
    # It sets its own level on import.
    import lightning.pytorch

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in (lightning.pytorch.__name__, "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def machine() -> dict[str, str]:
    """Describe the machine.

    Returns:
        CPU and library versions.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    device = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return device | {"cpu": cpu, "torch": torch.__version__, "transformers": transformers.__version__}


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result if a path was given.

    Args:
        path: file to write; None for none.
        result: the result.
    """
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
