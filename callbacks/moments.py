"""Moments in training, according to its trainer."""

import math

import lightning.pytorch as L


def training_ends(trainer: L.Trainer) -> bool:
    """Return whether the last optimizer step was the final one of the training."""
    if trainer.max_steps is not None and 0 <= trainer.max_steps <= trainer.global_step:
        return True
    last_epoch = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return last_epoch and trainer.is_last_batch


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return, inside ``on_train_batch_end``, whether a validation follows right after this training batch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    interval = trainer.val_check_batch
    if trainer.should_stop or interval is None or math.isinf(interval):
        return trainer.should_stop or trainer.is_last_batch
    done = trainer.fit_loop.total_batch_idx if every is None else batch_idx
    return bool((done + 1) % interval == 0)
