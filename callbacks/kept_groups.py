"""Where a run keeps the finished groups of rollouts that no checkpoint holds yet, and until when."""

from pathlib import Path

import lightning.pytorch as L

from lit_g2rpo.training.group_records import GroupRecords
from lit_g2rpo.training.run import run_of


def keep_groups(trainer: L.Trainer, pl_module: L.LightningModule, folder: Path) -> None:
    """Keep groups from now on, unless they are given; all ranks call it before they sample."""
    if not run_of(pl_module).engine.samples:
        return
    run_of(pl_module).records = GroupRecords(folder, trainer.global_rank)
    # no rank writes before all have read
    trainer.strategy.barrier()


def forget_covered(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Remove the groups that the checkpoint just written holds; all ranks call it."""
    run = run_of(pl_module)
    if run.records is None:
        return
    run.records.drop()
    # what another rank was still writing would outlive the removal
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        run.records.covered(run.rollout_index)


def leave_groups(pl_module: L.LightningModule) -> None:
    """Write what is waiting and keep no more."""
    run = run_of(pl_module)
    if run.records is not None:
        run.records.close()
        run.records = None
