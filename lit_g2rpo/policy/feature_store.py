"""Where image features wait between passes, if the vision tower does not learn."""

from weakref import WeakSet

import torch

from lit_g2rpo.policy.encoding import EncodedPrompt, Features


class FeatureStore:
    """Keep features of a tower that does not learn: on the device up to a limit, beyond it in host memory.

    Args:
        limit: most bytes on the device; infinity for all.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._resident: WeakSet[Features] = WeakSet()

    def keep(self, row: EncodedPrompt, features: Features) -> None:
        """Keep the features, which are on the device, with their prompt."""
        used = sum(found.bytes for found in self._resident)
        if used + features.bytes > self.limit:
            features = features.to(torch.device("cpu"))
        else:
            self._resident.add(features)
        row.features = features
