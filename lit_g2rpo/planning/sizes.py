"""Shapes of the published Qwen3-VL models, in case their config cannot be fetched."""

from typing import Any

from transformers import PreTrainedConfig, Qwen3VLConfig

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.loading import find_family, resolve_path

# text: layers, width, inner width, heads; vision: layers, width, inner width, layers that feed DeepStack; tied head
PUBLISHED: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, list[int]], bool]] = {
    "Qwen/Qwen3-VL-2B": ((28, 2048, 6144, 16), (24, 1024, 4096, [5, 11, 17]), True),
    "Qwen/Qwen3-VL-4B": ((36, 2560, 9728, 32), (24, 1024, 4096, [5, 11, 17]), True),
    "Qwen/Qwen3-VL-8B": ((36, 4096, 12288, 32), (27, 1152, 4304, [8, 16, 24]), False),
}


def planned_model(config: PolicyConfig) -> tuple[Family, PreTrainedConfig]:
    """Find the family and the sizes of a policy without its weights.

    Returns:
        The family, and the sizes: as published for models known by name, else from the folder or hub.

    Raises:
        UserError: if the config cannot be read, or its family is unknown.
    """
    path = config.path
    name = next((name for name in PUBLISHED if path.startswith(name)), None)
    if name is not None:
        return (find_family(config) if config.family else Qwen3VL()), published(name)
    try:
        family = find_family(config)
        return family, family.model_class.config_class.from_pretrained(resolve_path(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.policy.path '{path}': its configuration cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error


def published(name: str) -> Qwen3VLConfig:
    """Build the config of a published model, one of ``PUBLISHED``."""
    (layers, width, inner, heads), (depth, vision_width, vision_inner, deepstack), tied = PUBLISHED[name]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    text = {
        "vocab_size": 151_936, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
        "rope_parameters": rope | {"mrope_interleaved": True}, "tie_word_embeddings": tied,
    }  # fmt: skip
    vision = {
        "depth": depth, "hidden_size": vision_width, "intermediate_size": vision_inner, "num_heads": 16,
        "out_hidden_size": width, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "num_position_embeddings": 48**2, "deepstack_visual_indexes": deepstack,
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
