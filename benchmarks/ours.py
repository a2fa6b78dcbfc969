"""This project's side of the comparison: its module under its trainer, as a user runs it."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from common import TASK
from torch import Tensor
from turns import Phases
from typing_extensions import override

import lit_g2rpo.evaluation.module
import lit_g2rpo.training.rollout
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.experience import Prompt
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.scorer import Scored, Scorer
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.tasks import Task

LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.01
LORA_RANK, LORA_ALPHA = 8, 16


@dataclass(frozen=True)
class Work:
    """The work of both sides in a step.

    Args:
        group_size: completions per prompt.
        max_tokens: longest completion, tokens.
        updates: optimizer steps per rollout.
        kl: coefficient of the KL penalty; 0 for none.
        lora: train adapters of rank 8 instead of the weights.
        tower: train the vision tower.
    """

    group_size: int
    max_tokens: int
    updates: int = 1
    kl: float = 0.0
    lora: bool = False
    tower: bool = False


def reward(ids: list[int]) -> float:
    """Reward a completion by a digest of its tokens, which differs inside a group and costs almost nothing.

    Args:
        ids: the tokens.

    Returns:
        A number from 0 to 1.
    """
    return hashlib.sha256(repr(ids).encode()).digest()[0] / 255


class _Scorer(Scorer):
    """Rewards computed from the tokens, because the real one would call every completion of a random policy wrong."""

    def attempt(self, batch: Batch, group_size: int | None = None) -> list[Scored]:
        assert batch.token_ids is not None
        rewards = [reward(list(tokens)) for tokens in batch.token_ids]
        return [Scored(RewardResult(value, value, 1.0, 0.0, {}, None, 0.0)) for value in rewards]


class _Rows:
    """The same prompts repeated as new objects, so that nothing is cached between rollouts."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return replace(self.prompts[index])

    def task_names(self) -> Sequence[str]:
        return [TASK] * len(self.prompts)


class BenchData(PromptData):
    """Data in which every rollout has every prompt once.

    Args:
        prompts: the prompts.
        max_tokens: longest completion, tokens.
        rollouts: rollouts of the run.
    """

    def __init__(self, prompts: list[Prompt], max_tokens: int, rollouts: int) -> None:
        super().__init__(max_completion_tokens=max_tokens, rollouts_per_epoch=rollouts)
        self.prompts = prompts

    @override
    def default_tasks(self) -> dict[str, Task]:
        return {TASK: Task(TASK)}

    @override
    def train_dataset(self) -> _Rows:
        return _Rows(self.prompts)

    @override
    def val_dataset(self) -> None:
        """Return no validation data."""


@contextmanager
def forced_lengths(lengths: dict[str, list[int]]) -> Iterator[None]:
    """Make every completion end at a given length, through the uniform numbers from which it is drawn.

    The end token is the vocabulary's last and rare: the largest uniform number draws it, and numbers at least 5 % below
    one never do. The engines run unchanged.

    Args:
        lengths: tokens of each completion, by id of its prompt.
    """

    def uniforms(sampling: Any, prompt_id: str, completion: int) -> np.ndarray:
        length = lengths[prompt_id][completion]
        seed = [sampling.seed, sampling.rollout, *prompt_id.encode(), completion]
        numbers = np.random.default_rng(seed).random(sampling.max_tokens) * 0.95
        if length < sampling.max_tokens:
            numbers[length - 1] = np.nextafter(1.0, 0.0)
        return numbers

    engines = [m for name, m in sys.modules.items() if name.startswith("lit_g2rpo.rollout.") and hasattr(m, "uniforms")]
    before = [engine.uniforms for engine in engines]
    for engine in engines:
        engine.uniforms = uniforms
    try:
        yield
    finally:
        for engine, function in zip(engines, before, strict=True):
            engine.uniforms = function


class _Watch(pl.Callback):
    def __init__(self, side: "Ours", pause: Callable[[], None]) -> None:
        self.side, self.pause = side, pause

    def on_train_batch_end(self, trainer: Any, module: G2RPOModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] + 1 == module.microbatches_per_rollout:
            completions = zip(module.experience.prompts, _groups(module), strict=True)
            self.side.lengths.append({prompt.id: [len(c.token_ids) for c in group] for prompt, group in completions})
            self.side.updates = trainer.global_step
            self.pause()


def _groups(module: G2RPOModule) -> list[Any]:
    completions, size = module.experience.completions, module.rollout.group_size
    return [completions[i : i + size] for i in range(0, len(completions), size)]


class Ours:
    """A run of this project.

    Args:
        folder: the policy.
        prompts: prompts of every rollout.
        lengths: tokens of each completion, by id of its prompt.
        work: the work of a step.
        rollouts: rollouts of the run.
        engine: rollout engine.
        microbatches: forward and backward passes per optimizer step.
        device: ``cpu`` or ``cuda``.
        policy: more settings of the policy.
    """

    def __init__(
        self,
        folder: Path,
        prompts: list[Prompt],
        lengths: dict[str, list[int]],
        work: Work,
        rollouts: int,
        *,
        engine: str = "native",
        microbatches: int = 1,
        device: str = "cpu",
        **policy: Any,
    ) -> None:
        self.phases, self.lengths, self.updates = Phases(device == "cuda"), [], 0
        self._forced, self._folder = lengths, folder
        lora = LoraConfig(rank=LORA_RANK, alpha=LORA_ALPHA) if work.lora else None
        freeze = [] if work.tower else ["vision", "merger"]
        self.settings = {"engine": engine, "microbatches": microbatches * work.updates} | policy
        self.module = G2RPOModule(
            policy=PolicyConfig(path=str(folder), freeze=freeze, lora=lora, **policy),
            objective=GRPO(filtering="off", kl_coefficient=work.kl),
            optimizer=partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            # forced lengths are not what the policy would write
            rollout=RolloutConfig(engine=engine, prompts=len(prompts), group_size=work.group_size, gap_checks=0),
            update=UpdateConfig(epochs=1, microbatches=microbatches * work.updates),
            evaluation=EvaluationConfig(),
        )
        self._data = BenchData(prompts, work.max_tokens, rollouts)
        self._options = {
            "accelerator": device,
            "max_steps": rollouts * work.updates,
            "accumulate_grad_batches": microbatches,
        }

    def run(self, pause: Callable[[], None]) -> None:
        """Train.

        Args:
            pause: called after every rollout's last update.
        """
        trainer = pl.Trainer(
            devices=1,
            max_epochs=-1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=self._folder,
            callbacks=[_Watch(self, pause)],
            **self._options,
        )
        rollout, evaluation = lit_g2rpo.training.rollout, lit_g2rpo.evaluation.module
        before = rollout.logprobs_of, rollout.ref_logprobs, evaluation.Scorer
        evaluation.Scorer = _Scorer
        try:
            with forced_lengths(self._forced):
                self.module.configure_model()
                self._time(trainer)
                self._start = learned(self.module.policy.model)
                trainer.fit(self.module, datamodule=self._data)
        finally:
            rollout.logprobs_of, rollout.ref_logprobs, evaluation.Scorer = before

    def _time(self, trainer: pl.Trainer) -> None:
        phases, module = self.phases, self.module
        # The optimizer runs the training step inside its own step.
        phases.wrap(module, "training_step", "other")
        phases.wrap(module.policy, "encode", "preprocess")
        phases.wrap(module.engine, "generate", "rollout")
        phases.wrap(lit_g2rpo.training.rollout, "logprobs_of", "logprobs")
        phases.wrap(lit_g2rpo.training.rollout, "ref_logprobs", "logprobs")
        phases.wrap(module.policy, "loss", "forward")
        phases.wrap(trainer.strategy, "backward", "backward")
        configure = module.configure_optimizers

        def timed() -> Any:
            optimizer = configure()
            phases.wrap(optimizer, "step", "optimizer")
            return optimizer

        module.configure_optimizers = timed

    def counters(self) -> dict[str, int]:
        """Return the work since the start."""
        return asdict(self.module.policy.backbone.counters)

    def moved(self) -> float:
        """Return the distance of the weights from their start."""
        return distance(self._start, self.module.policy.model)


def learned(model: Any) -> list[Tensor]:
    """Copy the trainable weights.

    Args:
        model: a model.

    Returns:
        The weights, on the host, where they do not count for the peak.
    """
    return [parameter.detach().to("cpu", copy=True) for parameter in model.parameters() if parameter.requires_grad]


def distance(before: list[Tensor], model: Any) -> float:
    """Return the root mean square change of weights.

    Args:
        before: earlier trainable weights of the model.
        model: the model.

    Returns:
        The distance per weight.
    """
    after = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    squares = sum(float((b.to(a) - a).double().square().sum()) for b, a in zip(before, after, strict=True))
    return (squares / sum(b.numel() for b in before)) ** 0.5
