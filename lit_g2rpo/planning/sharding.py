"""What a strategy splits over ranks, read from the configuration without building it."""

import re
from dataclasses import dataclass
from typing import Any

BUCKET = 200_000_000
"""Elements of DeepSpeed's buckets under Lightning."""


@dataclass(slots=True, frozen=True)
class Sharding:
    """How many ranks share each part of the state.

    Args:
        name: what the strategy is called.
        ranks: ranks of the run.
        weights: True if they share the weights, which are then gathered for a rollout.
        gradients: True if they share the gradients.
        optimizer: True if they share the optimizer's state.
        deepspeed: True if float32 weights are kept beside those that compute.
        copies_gradients: True if gradients lie in buckets a second time.
        offload_optimizer: True if the optimizer's state lies in host memory.
        offload_weights: True if the weights lie in host memory.
    """

    name: str
    ranks: int = 1
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    deepspeed: bool = False
    copies_gradients: bool = False
    offload_optimizer: bool = False
    offload_weights: bool = False

    def share(self, split: bool) -> int:
        """Ranks that share what is split or not.

        Args:
            split: True if it is split.

        Returns:
            The number to divide by.
        """
        return self.ranks if split else 1


def sharding_of(strategy: Any, ranks: int) -> Sharding:
    """Read what a strategy splits.

    Args:
        strategy: ``trainer.strategy`` as configured: a name, or class path and arguments.
        ranks: ranks of the run.

    Returns:
        What is split.
    """
    arguments: dict[str, Any] = {}
    name = strategy
    if not isinstance(strategy, str):
        name, arguments = strategy["class_path"].rsplit(".", 1)[1], dict(strategy.get("init_args") or {})
    word = name.lower()
    if "deepspeed" in word:
        found = re.search(r"stage_(\d)", word)
        stage = int(arguments.get("stage") or (found[1] if found else 2))
        return Sharding(
            f"DeepSpeed ZeRO-{stage}",
            ranks,
            weights=stage >= 3,
            gradients=stage >= 2,
            optimizer=True,
            deepspeed=True,
            offload_optimizer=bool(arguments.get("offload_optimizer") or "offload" in word),
            offload_weights=bool(arguments.get("offload_parameters")),
        )
    if "fsdp" in word or "modelparallel" in word or "model_parallel" in word:
        return Sharding("FSDP2", ranks, weights=True, gradients=True, optimizer=True)
    if ranks == 1:
        return Sharding("single device")
    return Sharding("DDP", ranks, copies_gradients=not arguments.get("gradient_as_bucket_view"))
