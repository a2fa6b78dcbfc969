"""Validation, test and prediction with a policy: sample, score, count."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.evaluation.judging import Judging
from lit_g2rpo.evaluation.rows import row
from lit_g2rpo.evaluation.task_means import NAMES, TaskMeans
from lit_g2rpo.experience import Evaluated, Prompt, to_score
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.rollout.config import EvaluationConfig
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.checks import stop_together
from lit_g2rpo.training.curves import CurvesModule
from lit_g2rpo.training.run import PromptSettings
from lit_g2rpo.training.settings_checks import check_sampling
from lit_g2rpo.training.tags import tags_error

Rows = list[dict[str, Any]]
Numbered = tuple[list[Prompt], list[int | None]]
"""Prompts and their indices in the dataset; one without an index only keeps ranks in step."""


class EvaluationModule(CurvesModule):
    """Sample completions from a policy and score them; training builds on this class.

    Args:
        evaluation: how completions are sampled for validation, test and prediction.
        engine: samples them, even if training uses demonstrations.
        seed: determines every completion, together with the indices of prompt and completion.
        reward: settings of the built-in reward, for training and evaluation alike.
        reward_limits: limits of scoring.
        judge: the model that grades tasks whose ``reward`` is ``judge`` and, in ``test``, answers to benchmarks whose
            protocol uses a judge.

    Raises:
        UserError: if settings contradict each other.
    """

    if TYPE_CHECKING:
        # torch's own returns Any for every name, so type checkers would miss a renamed member
        __getattr__: None  # type: ignore[misc, assignment]

    policy: Policy
    scorer: Scorer
    ranks: Ranks

    def __init__(
        self,
        evaluation: EvaluationConfig,
        engine: RolloutEngine,
        seed: int,
        reward: RewardConfig,
        reward_limits: Limits,
        judge: JudgeConfig | None,
    ) -> None:
        super().__init__()
        check_sampling("model.evaluation", evaluation.temperature, evaluation.top_p, evaluation.top_k)
        if evaluation.repeats < 1 or (evaluation.repeats > 1 and evaluation.temperature == 0):
            raise UserError(
                f"model.evaluation.repeats is {evaluation.repeats} at temperature {evaluation.temperature}; give at "
                "least 1, and a temperature above 0 for completions that differ"
            )
        self.evaluation, self.evaluation_engine, self._seed = evaluation, engine, seed
        self.reward, self.reward_limits, self.judge = reward, reward_limits, judge
        self.tasks: dict[str, Task] = {}
        self.validation_history: list[dict[str, float]] = []
        self.validation_sizes: dict[str, int] = {}
        self.evaluated: Evaluated | None = None

    @property
    def _data(self) -> PromptSettings:
        return cast(PromptSettings, self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def max_tokens(self) -> int:
        """Return the longest completion, in tokens."""
        return self._data.max_completion_tokens

    @override
    def setup(self, stage: str) -> None:
        if not hasattr(self._data, "tasks_of"):
            found = "no datamodule" if self._data is None else f"a {type(self._data).__name__}"
            raise UserError(
                f"the trainer was given {found}; give a PromptData: trainer.fit(module, datamodule=JsonPrompts(...))"
            )
        self.evaluation_engine.check()
        self.tasks, self.ranks = self._data.tasks_of(stage), Ranks(self.trainer)
        folder = self.trainer.log_dir
        self.scorer = Scorer(
            self.reward,
            {name: task.reward for name, task in self.tasks.items() if task.reward is not None},
            in_process=[name for name, task in self.tasks.items() if task.in_process],
            limits=self.reward_limits,
            judge=self.judge,
            failures_file=Path(folder) / f"reward_failures_rank{self.global_rank}.jsonl" if folder else None,
            total=lambda counts: self.ranks.sum(torch.tensor(counts)).tolist(),
        )
        self._judging = Judging(self.judge, self.reward) if self.judge is not None and stage == "test" else None

    @override
    def teardown(self, stage: str) -> None:
        self.scorer.close()

    @torch.no_grad()
    def _evaluate(self, batch: Numbered) -> Rows:
        prompts, numbers = batch
        config = self.evaluation
        sampling = Sampling(self.max_tokens, config.temperature, config.top_p, config.top_k, self._seed)
        engine, failed = self.evaluation_engine, None
        with generation_context(self.trainer.strategy, self.policy):
            try:
                engine.push()
                completions = engine.generate(prompts, config.repeats, sampling)
            except RolloutStopError as error:
                failed = error
        if engine.separate:
            stop_together(self.ranks, failed)
        rewards = self.scorer.score(to_score(prompts, completions))
        self.evaluated = Evaluated(prompts, numbers, completions, rewards)
        rows = []
        for i, (completion, reward) in enumerate(zip(completions, rewards, strict=True)):
            at, repeat = divmod(i, config.repeats)
            number = numbers[at]
            if number is not None:
                rows.append(row(number, repeat, prompts[at], completion, reward, self.reward))
        return rows

    @override
    def on_validation_start(self) -> None:
        if wrong := tags_error(self.policy, self.reward):
            rank_zero_warn(wrong)

    on_test_start = on_predict_start = on_validation_start

    @override
    def on_validation_epoch_start(self) -> None:
        ranks = self.ranks
        means = TaskMeans(list(self.tasks), distributed_available_fn=lambda: ranks.count > 1)
        # on one rank nothing is sent, and counting on the host need not wait for a device
        self._means = means if ranks.count == 1 else means.to(self.device)

    @override
    def validation_step(self, batch: Numbered, batch_idx: int) -> Rows:  # type: ignore[override]  # rows reach callbacks
        rows = self._evaluate(batch)
        self._means.update(rows)
        return rows

    @override
    def on_validation_epoch_end(self) -> None:
        metrics = self._log_means("val")
        self.evaluated = None
        self.validation_history.append(metrics | {"rollout": float(self.rollout_index)})

    on_test_epoch_start = on_validation_epoch_start

    @override
    def test_step(self, batch: Numbered, batch_idx: int) -> Rows:  # type: ignore[override]  # rows reach callbacks
        rows = self.validation_step(batch, batch_idx)
        if self._judging is not None:
            self._judging.judge(rows)
        return rows

    @override
    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    @override
    def predict_step(self, batch: Numbered, batch_idx: int) -> Rows:
        return self._evaluate(batch)

    def _log_means(self, prefix: str) -> dict[str, float]:
        """Log the means over all ranks, per task as ``<prefix>/<name>/<task>``, and over the tasks present."""
        self.evaluation_engine.rest()
        means = self._means.compute()
        self.validation_sizes = {task: int(of_task["n"]) for task, of_task in means.items()}
        metrics: dict[str, float] = {}
        for name in NAMES:
            metrics |= {f"{prefix}/{name}/{task}": of_task[name] for task, of_task in means.items()}
            metrics[f"{prefix}/{name}"] = _mean([of_task[name] for of_task in means.values()])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.log_dict(metrics)
            # also in Lightning's sanity check before training, which is the first point of every curve
            self.write_point()
        else:
            self.log_result(metrics)
        return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
