"""The mini policy: a genuine Qwen3-VL of about one million parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lit_g2rpo.mini.images import SIDE
from lit_g2rpo.mini.pretraining import LESSONS, make_lesson
from lit_g2rpo.mini.tasks import TASKS, TEMPLATE, make_sample, prompt_text
from lit_g2rpo.mini.tokenizer import build_tokenizer
from lit_g2rpo.policy.processor import SHARED, ImageOnlyQwen3VLProcessor
from lit_g2rpo.policy.wording import PROMPT_TEMPLATE

PATCH = 8
MERGE = 2
HIDDEN = 128
HEADS = 4
CORPUS_PER_FAMILY = 200
VIDEO = {
    "fps": 2,
    "min_frames": 4,
    "max_frames": 16,
    # of all frames together
    "size": {"shortest_edge": 4 * (PATCH * MERGE) ** 2, "longest_edge": 16 * SIDE * SIDE},
}
"""Settings for videos: as many frames of the size of its images as fit into about a hundred tokens."""


def build_processor() -> ImageOnlyQwen3VLProcessor:
    """Build the processor of the mini policy, with a tokenizer trained on samples of the mini tasks."""
    texts = ["user\n", "assistant\n", "system\n"] * 100
    for index in range(CORPUS_PER_FAMILY):
        for task in TASKS:
            sample = make_sample(task, index, "train", 0)
            texts += [prompt_text(sample.question, sample.options), sample.solution]
        for name in (*LESSONS, "sums"):
            lesson = make_lesson(name, index, "train", 0)
            texts += [lesson.request, lesson.completion]
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        size={"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": SIDE * SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    images = image_processor.to_dict()
    video = {"video_processor_type": "Qwen3VLVideoProcessor"} | {name: images[name] for name in SHARED} | VIDEO
    return ImageOnlyQwen3VLProcessor(image_processor, build_tokenizer(texts), video=video)


def mini_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Build the config of the mini policy, with the vocabulary and special tokens of its tokenizer."""
    head = HIDDEN // HEADS
    ids = tokenizer.get_vocab()
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 4,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS // 2,
            "head_dim": head,
            "max_position_embeddings": 1024,
            "initializer_range": 0.05,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_interleaved": True,
                "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def initial_policy(config: Qwen3VLConfig, seed: int) -> Qwen3VLForConditionalGeneration:
    """Build the mini policy with random weights in single precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3VLForConditionalGeneration(config)


def save_policy(policy: Qwen3VLForConditionalGeneration, processor: ImageOnlyQwen3VLProcessor, folder: Path) -> None:
    """Save an ordinary Hugging Face folder, after rounding the policy's weights in place to half precision."""
    tokenizer = processor.tokenizer
    policy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, top_k=0, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    policy.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    processor.save_pretrained(folder)
    (folder / PROMPT_TEMPLATE).write_text(TEMPLATE)
