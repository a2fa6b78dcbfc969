"""The project's DeepSpeed strategy without the three places where Lightning's insists on CUDA."""

import os
import sys
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy

from lit_g2rpo.strategies import G2RPODeepSpeedStrategy

# its own shared-memory collectives would be compiled first, for half a minute
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None


class CPUDeepSpeedStrategy(G2RPODeepSpeedStrategy):
    def __init__(self, **options: Any) -> None:
        super().__init__(process_group_backend="gloo", **options)

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)
