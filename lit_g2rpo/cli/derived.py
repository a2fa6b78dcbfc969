"""Trainer values derived from the schedule and the seed; setting them too is an error."""

from jsonargparse import Namespace

from lit_g2rpo.errors import UserError
from lit_g2rpo.training import schedule


def derived(key: str, value: int, group: Namespace, owner: str) -> int:
    """Return a derived value, which would otherwise silently overrule a given one.

    Args:
        key: the derived key, dotted.
        group: the group that holds the key.
        owner: the key it is derived from.

    Raises:
        UserError: if the group has another value for the key.
    """
    if not isinstance(group, Namespace):
        raise UserError(f"{key.rsplit('.', 1)[0]} is {group}; give its keys, each with its value")
    given = group.get(key.rsplit(".", 1)[1])
    if given is not None and given != value:
        raise UserError(f"{key} is given as {given} but follows from {owner} ({value}); set {owner} instead")
    return value


def max_steps(rollouts: int, epochs: int, microbatches: int, accumulate: int, trainer: Namespace) -> int:
    """Compute the length of the run in optimizer steps, as `schedule.max_steps` does."""
    value = schedule.max_steps(rollouts, epochs, microbatches, accumulate)
    return derived("trainer.max_steps", value, trainer, "schedule.rollouts")


def val_check_interval(validate_every: int, epochs: int, microbatches: int, trainer: Namespace) -> int:
    """Compute the validation interval in micro-batches, as `schedule.val_check_interval` does."""
    value = schedule.val_check_interval(validate_every, epochs, microbatches)
    return derived("trainer.val_check_interval", value, trainer, "schedule.validate_every")


def log_every_n_steps(log_every: int, epochs: int, microbatches: int, accumulate: int, trainer: Namespace) -> int:
    """Compute the logging interval in optimizer steps, as `schedule.log_every_n_steps` does."""
    value = schedule.log_every_n_steps(log_every, epochs, microbatches, accumulate)
    return derived("trainer.log_every_n_steps", value, trainer, "schedule.log_every")


def seed(seed_everything: bool | int, rollout: Namespace) -> int:
    """Use the general seed for sampling too.

    Raises:
        UserError: if the seed is not a number.
    """
    if isinstance(seed_everything, bool):
        word = str(seed_everything).lower()
        raise UserError(f"seed_everything is {word}; give a whole number, since all sampling depends on it")
    if not 0 <= seed_everything < 2**32:
        raise UserError(f"seed_everything is {seed_everything}; it must be from 0 to {2**32 - 1}")
    return derived("model.rollout.seed", seed_everything, rollout, "seed_everything")
