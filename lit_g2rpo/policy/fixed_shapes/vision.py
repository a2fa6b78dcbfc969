"""The vision tower in a few fixed shapes: patches are padded to buckets, and a mask separates images."""

import torch
from torch import Tensor

from lit_g2rpo.hardware.hooks import end_graph
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.batching import packs
from lit_g2rpo.policy.encoding import EncodedPrompt, Features
from lit_g2rpo.policy.fixed_shapes.buckets import bucket

PATCHES = 4096
"""Patches encoded at a time if the tower is frozen; a larger image is encoded alone."""

SMALLEST = 64
"""Smallest bucket of patches."""


def encode_padded(backbone: Backbone, rows: list[EncodedPrompt]) -> list[Tensor]:
    """Run the tower on the images of prompts.

    Args:
        rows: prompts with images; none for a pass over only pads.

    Returns:
        For each level, the features of the image tokens, in the order of rows and positions, then those of pads,
        ``[n, H]``, on the device.
    """
    pixels = [row.pixel_values for row in rows if row.pixel_values is not None]
    patches = torch.cat([torch.empty(0, backbone.image_sizes.values), *pixels])
    grids = [row.image_grid for row in rows if row.image_grid is not None]
    grid = torch.cat(grids) if grids else torch.empty(0, 3, dtype=torch.long)
    backbone.counters.images_encoded += len(grid)
    size = bucket(len(patches), SMALLEST)
    return backbone.family.padded_image_features(backbone.model, patches, grid, size)


def host_features(backbone: Backbone, rows: list[EncodedPrompt]) -> list[Features]:
    """Encode the images of prompts without gradient, and only once if the tower is frozen.

    Args:
        rows: prompts with images.

    Returns:
        The features of each row, on the CPU, because on a device each size would compile.
    """
    todo = list({id(row): row for row in rows if row.features is None}.values())
    fresh: dict[int, Features] = {}
    for pack in packs(todo, lambda row: row.patches, PATCHES):
        fresh |= zip(map(id, pack), _encode(backbone, pack), strict=True)
    if not backbone.tower_learns:
        for row in todo:
            row.features = fresh[id(row)]
    return [row.features or fresh[id(row)] for row in rows]


@torch.no_grad()
def _encode(backbone: Backbone, pack: list[EncodedPrompt]) -> list[Features]:
    levels = encode_padded(backbone, pack)
    end_graph(backbone.device)
    merged = backbone.image_sizes.merge**2
    sizes = [row.patches // merged for row in pack]
    parts = zip(*(torch.split(level.cpu()[: sum(sizes)], sizes) for level in levels), strict=True)
    # Clone, so that a kept piece does not keep its pads alive.
    return [Features(embeddings.clone(), [level.clone() for level in added]) for embeddings, *added in parts]
