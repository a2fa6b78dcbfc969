"""Image features, encoded once per prompt."""

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lit_g2rpo.policy.encoding import EncodedPrompt, Features, packs

if TYPE_CHECKING:
    from lit_g2rpo.policy.policy import Policy

PATCHES = 4096
"""Patches encoded at a time where the tower does not learn: those of an image of a megapixel; more at a time were a
tenth slower on a CPU."""


class PatchProjection(nn.Conv3d):
    """The convolution of patches that do not overlap, as the product it is: a twelfth of the time on a CPU."""

    def forward(self, patches: Tensor) -> Tensor:
        """Project.

        Args:
            patches: ``[N, channels, frames, height, width]``, each as large as the kernel.

        Returns:
            ``[N, H, 1, 1, 1]``.
        """
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def project_patches(model: Any) -> None:
    """Make the vision tower of a model project its patches by a product; weights and their names stay.

    Args:
        model: a Qwen3-VL model.
    """
    model.model.visual.patch_embed.proj.__class__ = PatchProjection


class FeatureStore:
    """Keep features of a tower that does not learn: on the device up to a limit, beyond it in host memory.

    Args:
        limit: most bytes on the device; infinity for all.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._resident: WeakSet[Features] = WeakSet()

    def keep(self, row: EncodedPrompt, features: Features) -> None:
        """Keep the features with their prompt.

        Args:
            features: its features, on the device.
        """
        used = sum(found.bytes for found in self._resident)
        if used + features.bytes > self.limit:
            features = features.to(torch.device("cpu"))
        else:
            self._resident.add(features)
        row.features = features


def image_features(policy: "Policy", rows: list[EncodedPrompt]) -> list[Features | None]:
    """Encode the images of prompts, each prompt once per call, and once for good where the tower does not learn.

    Args:
        policy: the policy whose vision tower encodes.
        rows: encoded prompts; one object given twice is encoded once.

    Returns:
        The features of each row on the policy's device, with gradient where the tower learns; None for a row without
        images.
    """
    if not policy.tower_learns:
        keep_features(policy, rows)
    todo = _without_features(rows)
    kept = {id(row): row.features.to(policy.device) for row in rows if row.features is not None}
    both = kept | dict(zip(map(id, todo), _encode(policy, todo), strict=True))
    return [both.get(id(row)) for row in rows]


def keep_features(policy: "Policy", rows: list[EncodedPrompt]) -> None:
    """Encode the images of prompts once for good, where the tower does not learn.

    Args:
        policy: the policy whose vision tower encodes.
        rows: encoded prompts.
    """
    for pack in packs(_without_features(rows), lambda row: row.patches, PATCHES):
        for row, features in zip(pack, _encode(policy, pack), strict=True):
            policy.features.keep(row, features)


def _without_features(rows: list[EncodedPrompt]) -> list[EncodedPrompt]:
    """Prompts whose images are not encoded, each object once."""
    return list({id(row): row for row in rows if row.pixel_values is not None and row.features is None}.values())


def _encode(policy: "Policy", rows: list[EncodedPrompt]) -> list[Features]:
    if not rows:
        return []
    device = policy.device
    pixels = torch.cat([row.pixel_values for row in rows if row.pixel_values is not None]).to(device)
    grid = torch.cat([row.image_grid for row in rows if row.image_grid is not None]).to(device)
    with torch.set_grad_enabled(policy.tower_learns and torch.is_grad_enabled()):
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
