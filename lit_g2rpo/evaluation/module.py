"""What validation, test and prediction do with a policy: sample, score, count."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.rows import Tally, row
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.hardware.collectives import sum_over_ranks
from lit_g2rpo.hardware.context import generation_context
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scored, Scorer
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.tasks import Task


class EvaluationModule(pl.LightningModule):
    """Sample from a policy and score what it wrote; training builds on it.

    Args:
        evaluation: how completions are sampled for validation, test and prediction.
        engine: samples them, also where training reads demonstrations.
        reward: choices of the built-in reward, for training and evaluation alike.
        reward_limits: what scoring may take.
        judge: the model that grades tasks whose ``reward`` is ``judge``.

    Raises:
        UserError: if settings contradict each other.
    """

    policy: Policy
    rollout: RolloutConfig
    scorer: Scorer

    def __init__(
        self,
        evaluation: EvaluationConfig,
        engine: RolloutEngine,
        reward: RewardConfig,
        reward_limits: Limits,
        judge: JudgeConfig | None,
    ) -> None:
        super().__init__()
        if evaluation.repeats < 1 or (evaluation.repeats > 1 and evaluation.temperature == 0):
            raise UserError(
                f"model.evaluation.repeats is {evaluation.repeats} at temperature {evaluation.temperature}; give at "
                "least 1, and a temperature above 0 for completions that differ"
            )
        self.evaluation, self.evaluation_engine = evaluation, engine
        self.reward, self.reward_limits, self.judge = reward, reward_limits, judge
        self.tasks: dict[str, Task] = {}
        self.rollout_index = 0
        self.validation_history: list[dict[str, float]] = []
        self.validation_sizes: dict[str, int] = {}

    @property
    def max_tokens(self) -> int:
        """Longest completion, tokens."""
        return int(self.trainer.datamodule.max_completion_tokens)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Take the tasks from the data, and make their reward.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        self.tasks = self.trainer.datamodule.tasks  # type: ignore[attr-defined]
        folder, rank = self.trainer.log_dir, self.trainer.global_rank
        self.scorer = Scorer(
            self.reward,
            {name: task.reward for name, task in self.tasks.items() if task.reward is not None},
            limits=self.reward_limits,
            judge=self.judge,
            failures_file=Path(folder) / f"reward_failures_rank{rank}.jsonl" if folder else None,
        )

    def teardown(self, stage: str) -> None:
        """End the processes of the reward.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        self.scorer.close()

    def attempt_scores(
        self, prompts: list[Prompt], completions: list[Completion], by_group: bool = True
    ) -> list[Scored]:
        """Score completions without counting them, in any thread.

        Args:
            prompts: the prompts, ``P`` of them.
            completions: equally many completions of each, prompt by prompt.
            by_group: call functions for batches with the completions of one prompt at a time, else with all.

        Returns:
            A score per completion, for ``count_scores``.
        """
        repeats = len(completions) // max(len(prompts), 1)
        of_row = [prompts[i // repeats] for i in range(len(completions))]
        batch = Batch(
            [c.text for c in completions],
            [p.sample for p in of_row],
            [p.task for p in of_row],
            [p.text for p in of_row],
            [c.token_ids.tolist() for c in completions],
            [p.images for p in of_row],
        )
        return self.scorer.attempt(batch, repeats if by_group else None)

    def count_scores(self, scored: list[Scored]) -> list[RewardResult]:
        """Count scores and see whether rewards fail too often; all ranks must call it.

        Args:
            scored: scores of this rank, in the order of the prompts.

        Returns:
            A score per completion.

        Raises:
            UserError: on every rank, if rewards of the user's failed for more completions than the run allows.
        """
        results = self.scorer.count(scored)
        if any(task.reward for task in self.tasks.values()):
            self.scorer.check_budget(*sum_over_ranks(self, torch.tensor(self.scorer.recent)).tolist())
        return results

    @torch.no_grad()
    def _evaluate(self, batch: tuple[list[Prompt], list[int | None]]) -> list[dict[str, Any]]:
        prompts, numbers = batch
        config = self.evaluation
        sampling = Sampling(self.max_tokens, config.temperature, config.top_p, config.top_k, self.rollout.seed)
        with generation_context(self.trainer.strategy, self.policy):
            completions = self.evaluation_engine.generate(prompts, config.repeats, sampling)
        rewards = self.count_scores(self.attempt_scores(prompts, completions, by_group=False))
        rows = []
        for i, (completion, reward) in enumerate(zip(completions, rewards, strict=True)):
            at, repeat = divmod(i, config.repeats)
            number = numbers[at]
            if number is not None:
                rows.append(row(number, repeat, prompts[at], completion, reward, self.reward))
        return rows

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        self._tally = Tally(list(self.tasks))

    def validation_step(self, batch: tuple[list[Prompt], list[int | None]], batch_idx: int) -> Any:
        """Sample one completion per prompt and score it.

        Args:
            batch: prompts and their numbers in the dataset; one without a number only keeps ranks in step.
            batch_idx: index of the batch.

        Returns:
            One row per prompt that counts.
        """
        rows = self._evaluate(batch)
        self._tally.add(rows)
        return rows

    def on_validation_epoch_end(self) -> None:
        """Log the means over all ranks, per task and over tasks."""
        self._log_tally("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the means over all ranks, per task and over tasks."""
        self._log_tally("test")

    def predict_step(self, batch: tuple[list[Prompt], list[int | None]], batch_idx: int) -> list[dict[str, Any]]:
        """Sample one completion per prompt.

        Args:
            batch: prompts and their numbers in the dataset.
            batch_idx: index of the batch.

        Returns:
            One row per prompt that counts.
        """
        return self._evaluate(batch)

    def _log_tally(self, prefix: str) -> None:
        metrics, self.validation_sizes = self._tally.reduce(self, prefix)
        self.log_dict(metrics)
        if prefix == "val":
            self.validation_history.append(metrics | {"rollout": float(self.rollout_index)})
        if self.trainer.sanity_checking and self.logger is not None:
            # Lightning logs nothing during its check before training, but this is the first point of every curve.
            self.logger.log_metrics(metrics, step=0)
