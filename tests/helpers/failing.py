"""A callback that makes one rank fail."""

import os
import signal
from typing import Any

import lightning.pytorch as pl


class Fail(pl.Callback):
    """Raise on one rank at a given place.

    Args:
        rank: the rank.
        where: ``training_step``, ``reward`` or ``data``; ``killed`` sends SIGKILL instead.
    """

    def __init__(self, rank: int, where: str) -> None:
        self.rank, self.where = rank, where

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_rank != self.rank:
            return

        def fail(*args: Any, **kwargs: Any) -> Any:
            if self.where == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"a fault in {self.where}")

        if self.where in ("training_step", "killed"):
            pl_module.policy.loss = fail
        elif self.where == "reward":
            pl_module.scorer.attempt = fail
        else:
            pl_module.prepare_prompt = fail
