"""The seam of a run: the members of the module that training needs, and those that callbacks may use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_g2rpo.experience import Evaluated, Experience, Prompt
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.group_records import GroupRecords
from lit_g2rpo.training.resumed_optimizer import OptimizerSettings
from lit_g2rpo.training.table import Cut

T = TypeVar("T")


class PromptSettings(Protocol):
    """What training needs from the datamodule."""

    max_completion_tokens: int

    def tasks_of(self, stage: str) -> dict[str, Task]:
        """Pick the tasks that have rows in a stage of the trainer."""


class PromptLoader(Protocol):
    """What training needs from its loader besides batches."""

    failures: int
    before: dict[str, Any]
    """Return the state before the newest batch."""

    def ahead(self) -> list[Prompt]:
        """Return this rank's prompts of the next rollout."""

    def refill(self, tasks: Sequence[str], own: Sequence[int]) -> list[Prompt]:
        """Draw more prompts for the current rollout.

        Args:
            tasks: task of each prompt to draw, over all ranks.
            own: indices of this rank's prompts among them.

        Returns:
            This rank's prompts.
        """

    def rewind(self) -> None:
        """Go back to before the newest batch, from which nothing was learned."""

    def refill_again(self, waves: Sequence[tuple[Sequence[str], Sequence[int]]]) -> list[list[Prompt]]:
        """Redraw the refills of the current rollout, wave by wave; arguments are those of `refill`."""


class RunHandles(Protocol):
    """The members of the trained module that every callback may use."""

    tasks: dict[str, Task]
    objective: Objective
    experience: Experience | None
    rollout_index: int
    curve_file: Path | None
    rollout: RolloutConfig
    reward: RewardConfig
    evaluation: EvaluationConfig
    judge: JudgeConfig | None
    validation_history: list[dict[str, float]]
    validation_sizes: dict[str, int]
    evaluated: Evaluated | None
    """The newest batch of the validation in progress."""

    @property
    def trainer(self) -> L.Trainer:
        """The trainer."""

    @property
    def ranks(self) -> Ranks:
        """The ranks of the run."""

    @property
    def policy_path(self) -> str:
        """Name or folder the policy came from."""

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer, whose type depends on the model."""

    @property
    def opened(self) -> str:
        """The tag that the chat template writes at the start of each completion; empty for none."""

    @property
    def max_tokens(self) -> int:
        """Longest completion, tokens."""

    @property
    def microbatches_per_rollout(self) -> int:
        """Training batches per rollout."""

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps per rollout."""

    def send(self, values: dict[str, float]) -> None:
        """Send values of the current rollout to the loggers and the run's own file immediately."""

    def finish_rollout(self) -> None:
        """Write the point of a rollout that has just been learned from, if there is one to write."""

    @property
    def learning_rate_renewed(self) -> bool:
        """True while a run starts whose learning rate or schedule differs from the checkpoint it resumes from."""

    def describe(self) -> dict[str, str]:
        """Describe the run as the rows of a table."""


class Run(RunHandles, Protocol):
    """The trained module, attached to its trainer."""

    policy: Policy
    policy_config: PolicyConfig
    reference: Policy | None
    engine: RolloutEngine
    scorer: Scorer
    update: UpdateConfig
    cut: Cut
    records: GroupRecords | None
    optimizer: Callable[[Any], Optimizer]

    @property
    def device(self) -> torch.device:
        """Device of the policy."""

    @property
    def loader(self) -> PromptLoader:
        """The training loader."""

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer steps per pass over a rollout."""

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        """Optimizer and schedule as configured."""

    @property
    def reference_needed(self) -> bool:
        """True if the loss has a KL term."""

    def report_gradient(self, norm: Tensor | None) -> None:
        """Stop at a gradient that is not finite, and log its norm.

        Args:
            norm: a scalar, the same on every rank; None without a gradient.
        """

    def perform(self, function: Callable[[], T]) -> T:
        """Call a function, through the strategy's wrapper if it wraps the module."""


def handles(pl_module: L.LightningModule) -> RunHandles:
    """View the module that Lightning passes to a callback through the members that callbacks may use."""
    return cast(RunHandles, pl_module)


def run_of(pl_module: L.LightningModule) -> Run:
    """View the module that Lightning passes to a callback as a run."""
    return cast(Run, pl_module)
