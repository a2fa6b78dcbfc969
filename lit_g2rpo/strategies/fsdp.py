"""FSDP2: weights, gradients and optimizer state split over ranks by torch itself."""

from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from lit_g2rpo.hardware.context import generation_context
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.strategies.fsdp_sharding import gathered


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's model-parallel strategy with all ranks in one group, and checkpoints that are one file.

    Args:
        **kwargs: as Lightning's, its sizes left out.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **kwargs)

    def setup_environment(self) -> None:
        """Count the ranks."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Collect the state, and leave an optimizer that has made no step without one.

        To have something to save torch lets it make a step of zero gradients, which Adam would count as its first.
        """
        plain = getattr(optimizer, "_optimizer", optimizer)
        fresh = not plain.state
        found = super().optimizer_state(plain)
        if fresh:
            plain.state.clear()
        return found


@generation_context.register
def _(strategy: ModelParallelStrategy, model: Policy) -> AbstractContextManager[None]:
    return gathered(model)
