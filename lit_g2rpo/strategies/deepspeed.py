"""DeepSpeed: ZeRO-1, 2 and 3."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy


class ShardedPolicyStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed, with a policy that is loaded from its checkpoint already sharded.

    Args:
        *args: as Lightning's.
        **kwargs: as Lightning's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hf_config: Any = None

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Tell transformers of the configuration, so that it loads each weight straight into its shards."""
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        self._init_config_if_needed()
        # transformers holds it by a weak reference
        self._hf_config = HfDeepSpeedConfig(self.config)  # type: ignore[no-untyped-call]
        yield
