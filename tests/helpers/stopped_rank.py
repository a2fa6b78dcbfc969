"""Two ranks, one of which stops or hangs; ``python stopped_rank.py FOLDER WHERE HOW RANK [CHECKPOINT]``.

WHERE is ``sampling``, ``learning`` or ``nowhere``; HOW is ``stop`` (SIGSTOP) or ``hang``.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from helpers.toy import ToyLoader, ToyModule, fit
from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint
from lit_g2rpo.experience import Experience
from lit_g2rpo.hardware.parent import end_with_first_rank


class Loader(ToyLoader):
    """One that knows where it was before its newest batch."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.before = {"position": self.position - 1}
            yield batch


class Module(ToyModule):
    """One of whose ranks stops or hangs in its third rollout."""

    def __init__(self, where: str, how: str, rank: int) -> None:
        super().__init__()
        self.where, self.how, self.bad = where, how, rank

    @property
    def loader(self) -> Any:
        return self.trainer.train_dataloader

    def _fail(self, where: str) -> None:
        if self.rollout_index == 2 and where == self.where and self.global_rank == self.bad:
            print("pid", os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP) if self.how == "stop" else threading.Event().wait()

    def collect(self) -> Experience:
        self._fail("sampling")
        self.ranks.sum(torch.ones(1))
        return super().collect()

    def training_step(self, batch: tuple[int, int], batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch == (1, 2):
            self._fail("learning")
        return loss


if __name__ == "__main__":
    end_with_first_rank()
    folder, where, how, rank = sys.argv[1:5]
    module = Module(where, how, int(rank))
    keeper = RolloutCheckpoint(every_rollouts=50, dirpath=f"{folder}/checkpoints")
    trainer = fit(
        module, Path(folder), [GracefulInterrupt(rank_seconds=3.0), keeper], rollouts=4, validate_every=50, devices=2,
        strategy="ddp", checkpoint=sys.argv[5] if len(sys.argv) > 5 else None, loader=Loader(), logger=False,
    )  # fmt: skip
    if trainer.global_rank == 0:
        torch.save(module.policy.weight.data, f"{folder}/weight.pt")
