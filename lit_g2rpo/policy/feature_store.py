"""Storage of image features between passes, if the vision tower is frozen."""

from weakref import WeakSet

import torch

from lit_g2rpo.policy.encoding import EncodedPrompt, Features


class FeatureStore:
    """Keep the features of a frozen tower: on the device up to a limit, and the rest in host memory.

    Args:
        limit: maximum bytes on the device; infinity for no limit.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._resident: WeakSet[Features] = WeakSet()

    def keep(self, row: EncodedPrompt, features: Features) -> None:
        """Attach features, which are on the device, to their prompt."""
        used = sum(found.bytes for found in self._resident)
        if used + features.bytes > self.limit:
            features = features.to(torch.device("cpu"))
        else:
            self._resident.add(features)
        row.features = features
