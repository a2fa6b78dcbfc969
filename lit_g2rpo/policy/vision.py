"""Image features, encoded once per prompt."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_g2rpo.policy.encoding import EncodedPrompt, Features

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy


def image_features(policy: "Policy", rows: list[EncodedPrompt]) -> list[Features | None]:
    """Encode the images of prompts, each prompt once per call, and once for good where the tower does not learn.

    Args:
        policy: the policy whose vision tower encodes.
        rows: encoded prompts; one object given twice is encoded once.

    Returns:
        The features of each row, with gradient where the tower learns; None for a row without images.
    """
    frozen = not any(parameter.requires_grad for parameter in policy.base.model.visual.parameters())
    todo = {id(row): row for row in rows if row.pixel_values is not None and row.features is None}
    found = _encode(policy, list(todo.values()), grad=not frozen)
    for row, features in zip(todo.values(), found, strict=True):
        if frozen:
            row.features = features
    fresh = dict(zip(todo, found, strict=True))
    return [row.features or fresh.get(id(row)) for row in rows]


def _encode(policy: "Policy", rows: list[EncodedPrompt], grad: bool) -> list[Features]:
    if not rows:
        return []
    device = policy.device
    pixels = torch.cat([row.pixel_values for row in rows if row.pixel_values is not None]).to(device)
    grid = torch.cat([row.image_grid for row in rows if row.image_grid is not None]).to(device)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
        output = policy.base.model.get_image_features(pixels, grid, return_dict=True)
    policy.counters.images_encoded += len(grid)
    images = [len(row.image_grid) for row in rows if row.image_grid is not None]
    layers = [_by_row(layer, images) for layer in output.deepstack_features]
    return [
        Features(embeddings, [layer[i] for layer in layers])
        for i, embeddings in enumerate(_by_row(output.pooler_output, images))
    ]


def _by_row(features: tuple[Tensor, ...], images: list[int]) -> list[Tensor]:
    """Join the features ``[tokens, H]`` of each row's images."""
    parts = iter(features)
    return [torch.cat([next(parts) for _ in range(count)]) for count in images]
