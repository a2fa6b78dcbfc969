"""Save the last optimizer step from a single rank, if others do not respond."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.hardware.collectives import PROGRESS
from lit_g2rpo.training.checkpoint_files import part_of, point, remove, seal
from lit_g2rpo.training.records import LAST
from lit_g2rpo.training.run import handles, run_of


def rescue(trainer: L.Trainer, pl_module: L.LightningModule, sampling: bool) -> str:
    """Save this rank's state, from a thread other than the waiting main thread.

    Args:
        sampling: True if the main thread waits while sampling a rollout, before learning from it.

    Returns:
        One line that says what was saved, or why nothing could be.
    """
    keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, RolloutCheckpoint)]
    if not keepers:
        return "nothing is saved: the run has no RolloutCheckpoint"
    keeper, step, strategy = keepers[0], trainer.global_step, trainer.strategy
    if step == keeper._saved_step:
        return f"step {step} is saved already" if step else "there is nothing to save before the first step"
    newest = f"the newest checkpoint is that of step {keeper._saved_step}"
    if type(strategy) is not DDPStrategy:
        return f"nothing can be saved: {type(strategy).__name__} may spread the state over the ranks; {newest}"
    if not sampling:
        return f"nothing can be saved in the midst of a rollout, whose parts lie on all ranks; {newest}"
    at = PROGRESS.count
    path = Path(str(keeper.dirpath)) / f"rollout={handles(pl_module).rollout_index:05d}-step={step:06d}.ckpt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a separate stream, since the default one may be waiting for the other ranks
        stream = torch.cuda.Stream() if strategy.root_device.type == "cuda" else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            strategy.checkpoint_io.save_checkpoint(_whole(trainer, pl_module), part_of(path))
        if PROGRESS.count != at:
            remove(part_of(path))
            return "training goes on, so nothing was saved"
        seal(path)
        point(path.with_name(LAST), path)
    except Exception as error:  # the watching thread must survive any error
        return f"nothing could be saved ({type(error).__name__}: {error}); {newest}"
    return f"saved step {step} as {path}"


def _whole(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    """Collect the state as of the beginning of the rollout, which will be sampled again."""
    checkpoint: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [run_of(pl_module).loader.before]
    return checkpoint
