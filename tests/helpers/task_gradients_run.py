"""Train a step and write each rank's task gradients: python task_gradients_run.py POLICY OUT on two ranks."""

import json
import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch

import lit_g2rpo.rewards.running.scorer
from helpers.build import data, module, trainer, varied_score
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.training.task_gradients import task_gradients


class Write(pl.Callback):
    """Write the measurements of each rank."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = task_gradients(pl_module, pl_module.experience.microbatches[0])
        out = Path(trainer.default_root_dir)
        out.mkdir(parents=True, exist_ok=True)
        values = {name: [pull.norm, pull.tokens] for name, pull in found.items()}
        (out / f"{trainer.global_rank}.json").write_text(json.dumps(values))


def train(folder, out, **options):
    run = module(folder, G2RPO(filtering="off"), update={"microbatches": 1})
    # a small step, so that nothing is clipped
    run.optimizer = partial(torch.optim.SGD, lr=1e-4)
    trainer(out, 1, callbacks=[Write()], accumulate_grad_batches=1, **options).fit(run, data())


if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_g2rpo.rewards.running.scorer.score = varied_score
    train(sys.argv[1], Path(sys.argv[2]), devices=2, strategy="ddp")
