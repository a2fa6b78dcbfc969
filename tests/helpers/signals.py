"""A callback that signals its own process; python signals.py FOLDER trains on two ranks, with the callback on one."""

import os
import signal
import sys
from pathlib import Path

from helpers.toy import ToyModule, fit
from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint


class Raise(GracefulInterrupt):
    """Send itself a signal at a given batch, during a validation, or during the validation before training."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_start(self, trainer, pl_module):
        if self.at == ("sanity check" if trainer.sanity_checking else "validation"):
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ.get("LOCAL_RANK", 0))
    callbacks = [Raise(at=(1, 0) if rank else None), RolloutCheckpoint()]
    trainer = fit(ToyModule(), folder, callbacks, devices=2, strategy="ddp")
    (folder / f"rank{rank}").write_text(str(trainer.global_step))
