"""The vision tower in few fixed shapes: patches padded to buckets, images kept apart by a mask."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from lit_g2rpo.hardware.hooks import end_graph
from lit_g2rpo.policy.encoding import EncodedPrompt, Features, packs
from lit_g2rpo.policy.fixed_shapes.buckets import bucket
from lit_g2rpo.policy.forward.attention import NAME, Layout

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy

PATCHES = 4096
"""Patches encoded at a time where the tower does not learn; a larger image is encoded alone."""

SMALLEST = 64
"""Smallest bucket of patches."""


def encode_padded(policy: "Policy", rows: list[EncodedPrompt]) -> list[Tensor]:
    """Run the tower on the images of prompts.

    The model's own forward takes what depends on the sizes of images, computed here on the host, as keywords.

    Args:
        rows: prompts with images; none for a pass over pads alone.

    Returns:
        Embeddings and DeepStack features of the image tokens, in the order of rows and places, then of pads, ``[n, H]``
        per level, on the device.
    """
    device, visual = policy.device, policy.base.model.visual
    if visual.config._attn_implementation != NAME:
        policy.base.set_attn_implementation({"vision_config": NAME})
    config = visual.config
    channels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = [row.pixel_values for row in rows if row.pixel_values is not None]
    patches = torch.cat([torch.empty(0, channels), *pixels])
    grids = [row.image_grid for row in rows if row.image_grid is not None]
    grid = torch.cat(grids) if grids else torch.empty(0, 3, dtype=torch.long)
    size = bucket(len(patches), SMALLEST)
    taps, weights = torch.zeros(size, 4, dtype=torch.long), torch.zeros(size, 4)
    places, segments = torch.zeros(size, 2, dtype=torch.long), torch.full((size,), -1)
    if len(grid):
        count = len(patches)
        taps[:count], weights[:count] = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=config.spatial_merge_size,
        )
        places[:count] = get_vision_position_ids(grid, config.spatial_merge_size)
        frames = (grid[:, 1] * grid[:, 2]).repeat_interleave(grid[:, 0])
        segments[:count] = torch.arange(len(frames)).repeat_interleave(frames)
    filled = patches.new_zeros(size, channels)
    filled[: len(patches)] = patches
    segments = segments.to(device)
    output = visual(
        filled.to(device, visual.dtype),
        grid_thw=grid,
        interp_indices=taps.to(device),
        interp_weights=weights.to(device),
        position_ids=places.to(device),
        # One run of patches: the mask keeps images apart, whatever their number.
        cu_seqlens=torch.tensor([0, size]),
        layout=Layout([], [], [], mask=segments[None] == segments[:, None]),
        return_dict=True,
    )
    policy.counters.images_encoded += len(grid)
    return [output.pooler_output, *output.deepstack_features]


def host_features(policy: "Policy", rows: list[EncodedPrompt]) -> list[Features]:
    """Encode the images of prompts without gradient, once for good where the tower does not learn.

    Args:
        rows: prompts with images.

    Returns:
        The features of each row, on the CPU: on a device, pieces of many sizes would each compile.
    """
    todo = list({id(row): row for row in rows if row.features is None}.values())
    fresh: dict[int, Features] = {}
    for pack in packs(todo, lambda row: row.patches, PATCHES):
        fresh |= zip(map(id, pack), _encode(policy, pack), strict=True)
    if not policy.tower_learns:
        for row in todo:
            row.features = fresh[id(row)]
    return [row.features or fresh[id(row)] for row in rows]


@torch.no_grad()
def _encode(policy: "Policy", pack: list[EncodedPrompt]) -> list[Features]:
    levels = encode_padded(policy, pack)
    end_graph(policy.device)
    merged = policy.base.config.vision_config.spatial_merge_size**2
    sizes = [row.patches // merged for row in pack]
    parts = zip(*(torch.split(level.cpu()[: sum(sizes)], sizes) for level in levels), strict=True)
    # Clones, so that a kept piece does not keep its pads alive.
    return [Features(embeddings.clone(), [level.clone() for level in deepstack]) for embeddings, *deepstack in parts]
