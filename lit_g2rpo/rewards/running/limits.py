"""Limits of scoring: processes, time, memory and failures."""

from dataclasses import dataclass

from lit_g2rpo.errors import UserError


@dataclass(frozen=True)  # no slots: the config parser reads defaults through __dict__
class Limits:
    """Limit the resources and failures of scoring.

    Args:
        workers: processes for algebra; they start when an answer needs them.
        seconds: CPU seconds for one comparison by algebra.
        memory: memory of each process, MiB.
        user_seconds: CPU seconds for one call of a custom reward, with a wall-clock limit of five times that; 0 for
            no limit.
        user_memory: memory of each custom reward's process, MiB; 0 for no limit.
        failure_budget: fraction of completions for which a custom reward may fail before the run stops.
        failure_window: number of newest completions over which the fraction is computed.
        failed_samples: most failures written to the file of failures.

    Raises:
        UserError: if a limit is not positive, or the fraction is outside 0 to 1.
    """

    workers: int = 2
    seconds: float = 2.0
    memory: int = 1024
    user_seconds: float = 60.0
    user_memory: int = 16384
    failure_budget: float = 0.05
    failure_window: int = 2000
    failed_samples: int = 100

    def __post_init__(self) -> None:
        for key in ("workers", "seconds", "memory", "failure_window"):
            if getattr(self, key) <= 0:
                raise UserError(f"model.reward_limits.{key} is {getattr(self, key)}; give a number above 0")
        for key in ("user_seconds", "user_memory", "failed_samples"):
            if getattr(self, key) < 0:
                raise UserError(f"model.reward_limits.{key} is {getattr(self, key)}; give 0 or more")
        if not 0 <= self.failure_budget <= 1:
            raise UserError(f"model.reward_limits.failure_budget is {self.failure_budget}; give a share from 0 to 1")
