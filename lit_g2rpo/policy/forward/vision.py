"""Image features, encoded once per prompt."""

import torch
from torch import Tensor

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.batching import packs
from lit_g2rpo.policy.encoding import EncodedPrompt, Features

PATCHES = 4096
"""Patches encoded at a time if the tower is frozen, which fits a one-megapixel image; more at a time were a tenth
slower on a CPU."""


def image_features(backbone: Backbone, rows: list[EncodedPrompt]) -> list[Features | None]:
    """Encode the images of prompts, once per prompt and call, or only once in total if the tower is frozen.

    Args:
        rows: encoded prompts; the same object is encoded once.

    Returns:
        The features of each row on the model's device, with gradient if the tower learns; None for a row without
        images.
    """
    if not backbone.tower_learns:
        keep_features(backbone, rows)
    todo = _without_features(rows)
    kept = {id(row): row.features.to(backbone.device) for row in rows if row.features is not None}
    both = kept | dict(zip(map(id, todo), _encode(backbone, todo), strict=True))
    return [both.get(id(row)) for row in rows]


def keep_features(backbone: Backbone, rows: list[EncodedPrompt]) -> None:
    """Encode the images of prompts only once if the tower is frozen."""
    for pack in packs(_without_features(rows), lambda row: row.patches, PATCHES):
        for row, features in zip(pack, _encode(backbone, pack), strict=True):
            backbone.features.keep(row, features)


def _without_features(rows: list[EncodedPrompt]) -> list[EncodedPrompt]:
    """Return the prompts whose images are not encoded yet, each object once."""
    return list({id(row): row for row in rows if row.pixel_values is not None and row.features is None}.values())


def _encode(backbone: Backbone, rows: list[EncodedPrompt]) -> list[Features]:
    if not rows:
        return []
    pixels = torch.cat([row.pixel_values for row in rows if row.pixel_values is not None])
    grid = torch.cat([row.image_grid for row in rows if row.image_grid is not None])
    with torch.set_grad_enabled(backbone.tower_learns and torch.is_grad_enabled()):
        levels = backbone.family.image_features(backbone.model, send(pixels, backbone.device), grid)
    backbone.counters.images_encoded += len(grid)
    images = [len(row.image_grid) for row in rows if row.image_grid is not None]
    by_level = (_by_row(level, images) for level in levels)
    return [Features(embeddings, added) for embeddings, *added in zip(*by_level, strict=True)]


def _by_row(features: tuple[Tensor, ...], images: list[int]) -> list[Tensor]:
    """Join the features ``[tokens, H]`` of each row's images."""
    parts = iter(features)
    return [torch.cat([next(parts) for _ in range(count)]) for count in images]
