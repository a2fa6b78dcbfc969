"""A toy run with validation prompts written by ``RolloutLog``; python validation_run.py FOLDER runs it on two ranks."""

import sys
from pathlib import Path

from helpers.toy import ToyModule, fit, prompt
from lit_g2rpo.callbacks import RolloutLog
from lit_g2rpo.data.evaluation_batches import ShardedBatches


class Rows:
    """Seven validation prompts of two tasks in turn."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return prompt(f"row-{index}", "ab"[index % 2])

    def task_names(self):
        return ["ab"[index % 2] for index in range(7)]


class Module(ToyModule):
    """A toy whose validation loader knows its rank."""

    def val_dataloader(self):
        return ShardedBatches(Rows(), 2, self.global_rank, self.trainer.world_size)


def run(folder, rollouts=2, callbacks=(), **options):
    """Train, writing two validation prompts per task."""
    log = RolloutLog(validation_prompts=2)
    fit(Module(), Path(folder), [log, *callbacks], rollouts, validation=(), **options)


if __name__ == "__main__":
    run(sys.argv[1], devices=2, strategy="ddp", logger=False)
