"""The length of a run and its intervals in rollouts, and their conversion to the trainer's own units."""

from dataclasses import dataclass

from lit_g2rpo.errors import UserError


@dataclass(slots=True)
class Schedule:
    """The length of a run and its intervals, all counted in rollouts.

    Args:
        rollouts: rollouts in the whole run.
        validate_every: rollouts between validations.
        checkpoint_every: rollouts between checkpoints.
        log_every: rollouts between two points of a training curve.
    """

    rollouts: int = 100
    validate_every: int = 10
    checkpoint_every: int = 10
    log_every: int = 1


@dataclass(slots=True)
class Checkpoints:
    """What a run keeps for resuming.

    Args:
        partial_rollouts: keep finished groups between checkpoints, so that they survive a kill inside a rollout.
    """

    partial_rollouts: bool = False


def microbatches_per_rollout(epochs: int, microbatches: int) -> int:
    """Count the training-step calls that learn from one rollout.

    Args:
        epochs: passes over each rollout.
        microbatches: micro-batches per pass and rank.

    Returns:
        Micro-batches per rollout and rank.

    Raises:
        UserError: if a count is below 1.
    """
    for key, value in {"epochs": epochs, "microbatches": microbatches}.items():
        if value < 1:
            raise UserError(f"model.update.{key} is {value}; it must be 1 or more")
    return epochs * microbatches


def optimizer_steps_per_rollout(epochs: int, microbatches: int, accumulate: int) -> int:
    """Count the optimizer steps per rollout.

    Args:
        epochs: passes over each rollout.
        microbatches: micro-batches per pass and rank.
        accumulate: micro-batches per optimizer step.

    Returns:
        Optimizer steps per rollout.

    Raises:
        UserError: if a pass does not hold a whole number of optimizer steps.
    """
    total = microbatches_per_rollout(epochs, microbatches)
    if accumulate < 1 or microbatches % accumulate:
        raise UserError(
            f"model.update.microbatches ({microbatches}) must be a multiple of trainer.accumulate_grad_batches "
            f"({accumulate}), so that every pass over a rollout ends on an optimizer step"
        )
    return total // accumulate


def positive(name: str, value: int) -> int:
    """Check an interval of the schedule.

    Args:
        name: its key below ``schedule``.
        value: its value.

    Returns:
        The value.

    Raises:
        UserError: if it is below 1.
    """
    if value < 1:
        raise UserError(f"schedule.{name} is {value}; it must be 1 rollout or more")
    return value


def max_steps(rollouts: int, epochs: int, microbatches: int, accumulate: int) -> int:
    """Convert the length of the run to optimizer steps; arguments are those of `optimizer_steps_per_rollout`."""
    return positive("rollouts", rollouts) * optimizer_steps_per_rollout(epochs, microbatches, accumulate)


def val_check_interval(validate_every: int, epochs: int, microbatches: int) -> int:
    """Convert the validation interval to micro-batches; arguments are those of `microbatches_per_rollout`."""
    return positive("validate_every", validate_every) * microbatches_per_rollout(epochs, microbatches)


def log_every_n_steps(log_every: int, epochs: int, microbatches: int, accumulate: int) -> int:
    """Convert the logging interval to optimizer steps; arguments are those of `optimizer_steps_per_rollout`."""
    return positive("log_every", log_every) * optimizer_steps_per_rollout(epochs, microbatches, accumulate)


def check_sizes(prompts: int, world_size: int, microbatches: int, accumulate: int) -> None:
    """Check that a rollout splits evenly over optimizer steps, and that every rank has a share of each.

    Args:
        prompts: prompts of a rollout, over all ranks.
        world_size: number of ranks.
        microbatches: micro-batches per pass and rank.
        accumulate: micro-batches per optimizer step.

    Raises:
        UserError: if it does not.
    """
    updates = microbatches // accumulate
    least, below = world_size * updates, prompts - prompts % updates
    if prompts == below and prompts >= least:
        return
    nearest = sorted({max(size, least) for size in (below, below + updates)})
    raise UserError(
        f"model.rollout.prompts is {prompts}; it must be a multiple of {updates} (optimizer steps per pass over a "
        f"rollout) and at least {least} (a prompt for each rank in each of them: {world_size} x {updates}); give "
        f"{' or '.join(map(str, nearest))}"
    )
