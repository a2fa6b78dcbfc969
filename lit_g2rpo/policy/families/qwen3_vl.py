"""Qwen3-VL: M-RoPE, and DeepStack, in which the first text layers add features from inside the vision tower."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)
from typing_extensions import override

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.config import LoraConfig, Part
from lit_g2rpo.policy.families.family import Family, ImageSizes
from lit_g2rpo.policy.forward.attention import NAME, Layout
from lit_g2rpo.policy.forward.layers import Norm, PatchProjection
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor


class Qwen3VL(Family):
    """Dense Qwen3-VL models."""

    model_class = Qwen3VLForConditionalGeneration
    processor_class = ImageOnlyQwen3VLProcessor
    native_decoder = True

    @override
    def text(self, model: Any) -> Any:
        return model.model.language_model

    @override
    def tower(self, model: Any) -> nn.Module:
        tower: nn.Module = model.model.visual
        return tower

    @override
    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model.model.language_model.layers, *model.model.visual.blocks]

    @override
    def image_sizes(self, config: Any) -> ImageSizes:
        vision = config.vision_config
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        levels = 1 + len(vision.deepstack_visual_indexes)
        return ImageSizes(vision.patch_size, values, vision.spatial_merge_size, levels)

    @override
    def forbidden_token_ids(self, config: Any) -> list[int]:
        # a vision token in a completion would refer to a missing image
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return [int(getattr(config, name)) for name in names]

    @override
    def part_of(self, name: str) -> Part:
        if ".visual." not in name:
            return "language"
        return "merger" if "merger" in name else "vision"

    @override
    def adapter_targets(self, lora: LoraConfig) -> str:
        targets = rf".*language_model.*\.({'|'.join(lora.targets)})"
        return targets + (r"|.*visual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)" if lora.vision else "")

    @override
    def prepare_for_packing(self, model: Any) -> None:
        model.set_attn_implementation({"text_config": NAME})
        model.model.visual.patch_embed.proj.__class__ = PatchProjection
        text = model.model.language_model
        for layer in text.layers:
            attention = layer.self_attn
            for norm in (layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm):
                norm.__class__ = Norm
        text.norm.__class__ = Norm
        for index, layer in enumerate(text.layers[: len(model.config.vision_config.deepstack_visual_indexes)]):
            layer.register_forward_hook(partial(_add_features, index), with_kwargs=True)

    @override
    def positions(
        self,
        model: Any,
        input_ids: Tensor,
        token_types: Tensor,
        grid: Tensor | None,
        video_grid: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        positions: Tensor = model.model.get_rope_index(input_ids, token_types, grid, video_grid, mask)[0]
        return positions

    @override
    def image_features(self, model: Any, pixels: Tensor, grid: Tensor) -> list[tuple[Tensor, ...]]:
        visual, device = model.model.visual, pixels.device
        taps, weights, places = (send(values, device) for values in _places(visual, grid))
        lengths, longest = get_vision_attention_seqlens(grid, visual.config)
        output = model.model.get_image_features(
            pixels,
            grid,
            interp_indices=taps,
            interp_weights=weights,
            position_ids=places,
            # flash kernels read them on the device; other attention reads them on the host, in every layer
            cu_seqlens=lengths if longest is None else send(lengths, device),
            max_seqlen=longest,
            return_dict=True,
        )
        return [output.pooler_output, *output.deepstack_features]

    @override
    def padded_image_features(self, model: Any, pixels: Tensor, grid: Tensor, size: int) -> list[Tensor]:
        # Everything that depends on image sizes is computed here on the host and passed to the model's own forward.
        visual, device, count = model.model.visual, model.device, len(pixels)
        config = visual.config
        if config._attn_implementation != NAME:
            model.set_attn_implementation({"vision_config": NAME})
        taps, weights = torch.zeros(size, 4, dtype=torch.long), torch.zeros(size, 4)
        places, segments = torch.zeros(size, 2, dtype=torch.long), torch.full((size,), -1)
        if count:
            taps[:count], weights[:count], places[:count] = _places(visual, grid)
            frames = (grid[:, 1] * grid[:, 2]).repeat_interleave(grid[:, 0])
            segments[:count] = torch.arange(len(frames)).repeat_interleave(frames)
        filled = pixels.new_zeros(size, pixels.shape[1])
        filled[:count] = pixels
        segments = segments.to(device)
        output = visual(
            filled.to(device, visual.dtype),
            grid_thw=grid,
            interp_indices=taps.to(device),
            interp_weights=weights.to(device),
            position_ids=places.to(device),
            # One run of patches: the mask separates any number of images.
            cu_seqlens=torch.tensor([0, size]),
            layout=Layout([], [], [], mask=segments[None] == segments[:, None]),
            return_dict=True,
        )
        return [output.pooler_output, *output.deepstack_features]

    @override
    def hidden_states(
        self,
        model: Any,
        embeddings: Tensor,
        positions: Tensor,
        layout: Layout,
        places: Tensor | None,
        added: list[Tensor],
    ) -> Tensor:
        states: Tensor = model.model.language_model(
            inputs_embeds=embeddings[None],
            # Three rows, not four: the model would search a row of text positions for packed sequences.
            position_ids=positions[:, None],
            # A four-dimensional mask is used as it is: none is built, and grouped attention reads the layout.
            attention_mask=embeddings.new_empty(1, 1, 0, 0),
            use_cache=False,
            layout=layout,
            image_features=(places, added),
        ).last_hidden_state
        return states[0]

    @override
    def padded_states(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        grids = batch.get("image_grid_thw"), batch.get("video_grid_thw")
        positions = self.positions(
            model, batch["input_ids"], batch["mm_token_type_ids"], *grids, batch["attention_mask"]
        )
        sent = {name: send(tensor, model.device) for name, tensor in (batch | {"position_ids": positions}).items()}
        states: Tensor = model.model(**sent, use_cache=False).last_hidden_state
        return states

    @override
    def forget_batch(self, model: Any) -> None:
        # M-RoPE offsets, which would be added to a batch without images
        model.model.rope_deltas = None


def _places(visual: Any, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute on the host where patches lie: taps and weights of position embeddings, ``[n, 4]``, and ``[n, 2]``."""
    merge = visual.config.spatial_merge_size
    taps, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    return taps, weights, get_vision_position_ids(grid, merge)


def _add_features(index: int, _: nn.Module, args: Any, kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
    """Add image features after a layer by index; the model itself searches a mask, which costs a sync."""
    places, added = kwargs.get("image_features", (None, []))
    if not added:
        return hidden
    own = added[index].to(hidden.dtype)[None]
    return torch.add(hidden, own) if places is None else hidden.index_add(1, places, own)
