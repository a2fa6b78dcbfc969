"""Storage of finished groups until a checkpoint covers their rollout."""

from pathlib import Path

import lightning.pytorch as L

from lit_g2rpo.training.group_records import GroupRecords
from lit_g2rpo.training.run import run_of


def keep_groups(trainer: L.Trainer, pl_module: L.LightningModule, folder: Path) -> None:
    """Keep groups from now on, if the engine samples them; all ranks call this before they sample."""
    if not run_of(pl_module).engine.samples:
        return
    run_of(pl_module).records = GroupRecords(folder, trainer.global_rank)
    # no rank may write before all have read
    trainer.strategy.barrier()


def forget_covered(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Remove the groups covered by the checkpoint just written; all ranks call this."""
    run = run_of(pl_module)
    if run.records is None:
        return
    run.records.drop()
    # otherwise another rank's pending writes would survive the removal
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        run.records.covered(run.rollout_index)


def leave_groups(pl_module: L.LightningModule) -> None:
    """Finish pending writes and stop keeping groups."""
    run = run_of(pl_module)
    if run.records is not None:
        run.records.close()
        run.records = None
