"""What callbacks may touch of a run: the public handles of its module, and where its files lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as L
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rollout.config import EvaluationConfig
from lit_g2rpo.tasks import Task


class ScoredRollout(Protocol):
    """A scored rollout of this rank, as callbacks read it; ``N`` completions, prompt by prompt."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Prompts of this rank, each of which owns ``N / len(prompts)`` completions."""

    @property
    def completions(self) -> Sequence[Completion]:
        """Completions, ``N`` of them."""

    @property
    def rewards(self) -> Sequence[Any]:
        """Scores by component, ``N`` of them."""

    @property
    def total_rewards(self) -> Tensor:
        """Reward of each completion, ``[N]``."""

    @property
    def advantages(self) -> Tensor:
        """Advantage of each completion, ``[N]``."""

    @property
    def valid(self) -> Tensor:
        """False where the completion's group was dropped, ``[N]`` bool."""


class RunHandles(Protocol):
    """The attributes of the trained module that callbacks use."""

    tasks: dict[str, Task]
    experience: ScoredRollout | None
    validation_history: list[dict[str, float]]
    validation_sizes: dict[str, int]
    evaluation: EvaluationConfig

    @property
    def rollout_index(self) -> int:
        """Rollouts sampled so far, over the whole run."""

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that one rollout is worth."""

    @property
    def microbatches_per_rollout(self) -> int:
        """Training batches that one rollout is worth."""

    def describe(self) -> dict[str, str]:
        """Say what will run, as rows of a table."""


def handles(pl_module: L.LightningModule) -> RunHandles:
    """View a module through the handles that callbacks may use."""
    return cast(RunHandles, pl_module)


class RolloutWatch:
    """Tell a callback once per rollout that the rollout's metrics are there: at its first optimizer step."""

    def __init__(self) -> None:
        self._rollout = 0
        self._step = 0

    def start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the present, which in a resumed run is not zero."""
        self._rollout = handles(pl_module).rollout_index
        self._step = trainer.global_step

    def fires(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Tell, after each training batch, whether it made the first optimizer step from a new rollout."""
        rollout, step = handles(pl_module).rollout_index, trainer.global_step
        stepped, self._step = step != self._step, step
        if not stepped or rollout == self._rollout:
            return False
        self._rollout = rollout
        return True


def metric(trainer: L.Trainer, name: str) -> float | None:
    """Read the latest value of a logged metric; None if it was never logged."""
    value = trainer.callback_metrics.get(name)
    return None if value is None else float(value)


def per_task(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Pick the values of ``name/<task>`` out of logged metrics.

    Args:
        metrics: metrics by name.
        name: the part before the task, such as ``val/accuracy``.

    Returns:
        Value by task, in the order of the task names.
    """
    prefix = f"{name}/"
    return {key[len(prefix) :]: float(metrics[key]) for key in sorted(metrics) if key.startswith(prefix)}


def run_folder(trainer: L.Trainer) -> Path:
    """Find the folder of the run's files; to be called on every rank, since the ranks agree on it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def resume_command(folder: Path, checkpoint: str) -> str:
    """Spell the command that continues a run.

    Args:
        folder: folder of the run; its ``config.yaml`` is used if there is one.
        checkpoint: path of the newest checkpoint, ``last.ckpt``.
    """
    config = folder / "config.yaml"
    if config.exists():
        return f"python -m lit_g2rpo fit --config {config} --ckpt_path last"
    return f"python -m lit_g2rpo fit --ckpt_path {checkpoint}"
