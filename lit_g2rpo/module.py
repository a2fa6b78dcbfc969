"""The LightningModule: policy, reference and objective, and the steps of training."""

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import ScoringStopError
from lit_g2rpo.evaluation.module import EvaluationModule
from lit_g2rpo.experience import Experience, Prompt
from lit_g2rpo.hardware.hooks import shard
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.policy.wording import prompt_template_of
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.rollout.engines import build_engine, build_sampler
from lit_g2rpo.rollout.sampling import microbatch_seed
from lit_g2rpo.training.ahead import Ahead, SavedAhead, sample_ahead
from lit_g2rpo.training.checks import check_attention, check_gradient, check_shapes, gradient_norm
from lit_g2rpo.training.description import describe
from lit_g2rpo.training.group_records import GroupRecords
from lit_g2rpo.training.metrics import StepMetrics
from lit_g2rpo.training.resume import check_checkpoint, check_resume, experience_state, restore_experience, resume_state
from lit_g2rpo.training.resumed_optimizer import OptimizerSettings
from lit_g2rpo.training.rollout import collect
from lit_g2rpo.training.run import PromptLoader
from lit_g2rpo.training.schedule import check_sizes, optimizer_steps_per_rollout
from lit_g2rpo.training.settings_checks import (
    check_max_lag,
    check_parts,
    check_rate,
    check_rounding,
    check_settings,
    check_strategy,
)
from lit_g2rpo.training.table import Cut, build_microbatches

T = TypeVar("T")


class G2RPOModule(EvaluationModule):
    """Train a Qwen3-VL policy from rewards: micro-batch 0 of a rollout samples, every micro-batch learns.

    Args:
        policy: where the policy comes from, and which parts of it are trained.
        objective: advantages and loss.
        optimizer: creates the optimizer from the trained weights, such as ``partial(torch.optim.AdamW, lr=1e-6)``; by
            default AdamW with the paper's learning rate.
        rollout: how completions are sampled for training.
        update: how often to learn from a rollout.
        evaluation: how completions are sampled for validation, test and prediction.
        reward: settings of the built-in reward, for training and evaluation.
        reward_limits: limits on the resources that scoring may use.
        judge: the model that grades tasks whose ``reward`` is ``judge``.
        lr_scheduler: creates the learning-rate schedule, which is stepped once per optimizer step.

    Raises:
        UserError: if settings contradict each other.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        objective: Objective,
        optimizer: OptimizerCallable = lambda weights: torch.optim.AdamW(weights, lr=2e-6),
        rollout: RolloutConfig = RolloutConfig(),  # noqa: B008 (frozen)
        update: UpdateConfig = UpdateConfig(),  # noqa: B008 (frozen)
        evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (frozen)
        reward: RewardConfig = DEFAULT,
        reward_limits: Limits = Limits(),  # noqa: B008 (frozen)
        judge: JudgeConfig | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_parts(policy, objective, optimizer, rollout, update, evaluation, reward)
        engine = build_engine(rollout)
        super().__init__(evaluation, build_sampler(engine, rollout), rollout.seed, reward, reward_limits, judge)
        # The reference and frozen weights may be absent from a checkpoint; check_checkpoint verifies the rest.
        self.strict_loading = False
        self.engine = engine
        check_settings(objective, rollout, engine)
        self.policy_config, self.optimizer, self.lr_scheduler = policy, optimizer, lr_scheduler
        self.objective, self.rollout, self.update = objective, rollout, update
        self.reference: Policy | None = None
        self.experience: Experience | None = None
        # set by the callback that keeps finished groups
        self.records: GroupRecords | None = None
        self._restored: dict[str, Any] | None = None
        self._ahead: Ahead | SavedAhead | None = None
        # optimizer settings in the loaded checkpoint
        self._saved_optimizer: dict[str, Any] | None = None
        self._next_microbatch = 0
        self._collected_at = time.perf_counter()

    @property
    def policy_path(self) -> str:
        """Name or folder the policy came from."""
        return self.policy_config.path

    @property
    def prompt_template(self) -> str | None:
        """The prompt template that the policy was trained with; None if its folder has none."""
        return prompt_template_of(self.policy_path)

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer, whose type depends on the model."""
        return self.policy.processor.tokenizer

    @property
    def opened(self) -> str:
        """The tag that the chat template writes at the start of each completion; empty for none."""
        return self.policy.opened

    @property
    def loader(self) -> PromptLoader:
        """The training loader."""
        return cast(PromptLoader, self.trainer.train_dataloader)

    @property
    def microbatches_per_rollout(self) -> int:
        """Forward and backward passes per rollout and rank."""
        return self.update.epochs * self.update.microbatches

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer steps per pass over a rollout."""
        return self.update.microbatches // self.trainer.accumulate_grad_batches

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps per rollout."""
        return self.update.epochs * self.updates_per_epoch

    @property
    def reference_needed(self) -> bool:
        """True if the loss has a KL term."""
        return self.objective.kl_coefficient > 0

    @property
    def optimizer_settings(self) -> OptimizerSettings:
        """Optimizer and schedule as configured."""
        return OptimizerSettings(self.policy, self.policy_config, self.optimizer, self.lr_scheduler)

    @property
    def learning_rate_renewed(self) -> bool:
        """True in a run whose learning rate or schedule differs from the checkpoint it resumes from."""
        return self._saved_optimizer is not None and self.optimizer_settings.reschedules(self._saved_optimizer)

    def describe(self) -> dict[str, str]:
        """Describe the run as the rows of a table."""
        return describe(self)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        check_strategy(self.trainer.strategy)
        if stage == "fit":
            check_attention(self.policy_config.packed_attention, self.trainer.strategy.root_device.type)
            accumulate, update = self.trainer.accumulate_grad_batches, self.update
            optimizer_steps_per_rollout(update.epochs, update.microbatches, accumulate)
            check_sizes(self.rollout.prompts, self.trainer.world_size, update.microbatches, accumulate)
            check_max_lag(self.rollout, self.steps_per_rollout)
            if self._ahead is not None:
                # left from a fit that was aborted
                self._ahead.abandon()
                self._ahead = None

    @override
    def configure_model(self) -> None:
        # not hasattr, which would make the rest unreachable for a type checker
        if getattr(self, "policy", None) is not None:
            return
        self.policy = load_policy(self.policy_config).train()
        self.policy.temperature = self.rollout.temperature or 1.0
        self.engine.attach(self.policy)
        self.evaluation_engine.attach(self.policy)
        if self.reference_needed and not self.policy_config.lora:
            self.reference = load_policy(self.policy_config).requires_grad_(False).eval()
            self.reference.temperature = self.policy.temperature
        # `export` and `calibrate` have no trainer
        if self._trainer is not None:
            for policy in filter(None, (self.policy, self.reference)):
                shard(self.trainer.strategy, policy)

    @override
    def configure_optimizers(self) -> Any:
        settings = self.optimizer_settings
        optimizer = settings.build()
        check_rate(optimizer)
        check_rounding(optimizer, self.trainer.strategy, self.ranks)
        schedule = settings.build_schedule(optimizer)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_fit_start(self) -> None:
        check_shapes(self)
        accumulate = self.trainer.accumulate_grad_batches
        self.cut = Cut(self.update.epochs, self.updates_per_epoch, accumulate, self.max_tokens, self.objective)
        self._step = StepMetrics(list(self.tasks), self.ranks, accumulate)

    @override
    def on_train_start(self) -> None:
        # by now, every strategy has restored its optimizer, including the old settings
        if self._saved_optimizer is not None:
            self.optimizer_settings.adopt(self._saved_optimizer, self.trainer)
            self._saved_optimizer = None

    def prepare_prompt(self, prompt: Prompt) -> None:
        """Tokenize a prompt and preprocess its images; the loader's thread calls this while the device computes."""
        self.policy.encode(prompt)

    @override
    def training_step(self, batch: tuple[list[Prompt], int], batch_idx: int) -> Tensor:
        """Compute the loss of one micro-batch; the first one of a rollout samples the rollout.

        Args:
            batch: this rank's prompts and the index of the micro-batch in the rollout.
            batch_idx: index of the micro-batch in the epoch.
        """
        prompts, index = batch
        if index == 0:
            self.experience = self.collect(prompts)
        elif self.experience is None:
            self.experience, self._restored = restore_experience(self, self._restored, prompts), None
        if not self.experience.microbatches:
            self.experience.microbatches = build_microbatches(self.experience, self.cut, self.policy.empty)
        microbatch = self.experience.microbatches[index]
        # Dropout is seeded by counters, like sampling, so a resumed run drops the same units.
        torch.manual_seed(microbatch_seed(self.rollout.seed, self.rollout_index, index, self.global_rank))
        loss, metrics = self.policy.loss(microbatch, self.objective.token_loss)
        first = self.objective.needs_groups and index < self.trainer.accumulate_grad_batches
        self._step.add(metrics, microbatch.fields, first and self.rollout.on_policy)
        self._next_microbatch = index + 1
        if (index + 1) % self.trainer.accumulate_grad_batches == 0:
            self.log_dict(self._step.reduce())
            if self.trainer.global_step + 1 == self.trainer.max_steps:
                # stopping triggers a validation, so that the run ends with one, whatever its interval
                self.trainer.should_stop = True
        return loss

    def collect(self, prompts: list[Prompt]) -> Experience:
        """Sample, score, filter and compute advantages for one rollout of this rank's prompts."""
        # a rank that saves alone while this one waits for others must not save what all of them sampled ahead
        ahead, self._ahead = self._ahead, None
        try:
            experience, metrics = collect(self, prompts, ahead)
        except ScoringStopError:
            # not sampled again once scoring works
            self._ahead = ahead
            raise
        self.log_dict(metrics)
        self.rollout_index += 1
        self._collected_at = time.perf_counter()
        self._ahead = sample_ahead(self)
        return experience

    def perform(self, function: Callable[[], T]) -> T:
        """Call a function, through the strategy's wrapper if it wraps the module."""
        return function()

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # A strategy that accumulates by itself does not expose gradients, and reports their norm after its step.
        if not self.trainer.strategy.handles_gradient_accumulation:
            self.report_gradient(gradient_norm(self.policy))
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def report_gradient(self, norm: Tensor | None) -> None:
        """Stop at a gradient that is not finite, unless a loss scaler can still handle it, and log its norm.

        Args:
            norm: norm of the gradient, a scalar, the same on every rank; None without a gradient.
        """
        if norm is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # fp16 overflows occasionally by design: the scaler skips the step and lowers its scale, down to a minimum.
        if scaler is None or scaler.get_scale() <= 1:
            assert self.experience is not None, "a step follows a rollout"
            end = self._next_microbatch
            check_gradient(self, norm, self.experience.microbatches[end - self.trainer.accumulate_grad_batches : end])
        self.log("train/grad_norm", norm)

    @override
    def on_train_batch_end(self, outputs: Any, batch: tuple[list[Prompt], int], batch_idx: int) -> None:
        if self._next_microbatch % self.trainer.accumulate_grad_batches == 0:
            self.policy.version += 1
        self.finish_rollout()

    def finish_rollout(self) -> None:
        """Write the point of a rollout that has just been learned from, if there is one to write."""
        if self._next_microbatch < self.microbatches_per_rollout or "train/loss" not in self.point:
            return
        self.log("perf/update_seconds", time.perf_counter() - self._collected_at)
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning does not declare it
        if self.rollout_index % max(1, log_every // self.steps_per_rollout):
            self.point = {}
        else:
            self.write_point()

    @override
    def on_validation_start(self) -> None:
        # validation needs the scorer, and maybe the engine
        if self._ahead is not None:
            self._ahead.wait()
        super().on_validation_start()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sampling state and the partially trained rollout, and leave out frozen weights."""
        frozen = {name for name, w in self.named_parameters(remove_duplicate=False) if not w.requires_grad}
        checkpoint["state_dict"] = {name: w for name, w in checkpoint["state_dict"].items() if name not in frozen}
        state: dict[str, Any] = {
            "rollout_index": self.rollout_index,
            "validation_history": self.validation_history,
            "objective": self.objective.state_dict(),
            **resume_state(self),
        }
        if self.experience is not None and 0 < self._next_microbatch < self.microbatches_per_rollout:
            state["experience"] = experience_state(self.experience, self.cut.max_tokens, self.ranks)
            state["point"] = {name: float(value) for name, value in self.point.items()}
        if self._ahead is not None and (ahead := self._ahead.state()) is not None:
            state["ahead"] = ahead
        checkpoint["g2rpo"] = copy.deepcopy(state)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sampling state and the partially trained rollout."""
        check_checkpoint(self, self.policy_path, checkpoint)
        if self.trainer.state.fn == TrainerFn.FITTING:
            check_resume(self, checkpoint)
            self._saved_optimizer = checkpoint["g2rpo"]["optimizer"]
        self.policy.version = checkpoint["global_step"]
        for engine in (self.engine, self.evaluation_engine):
            engine.attach(self.policy)
        state = checkpoint["g2rpo"]
        self.rollout_index = state["rollout_index"]
        self.validation_history = state["validation_history"]
        self.objective.load_state_dict(state["objective"])
        # A rollout left from an earlier fit of this module must not replace the checkpoint's rollout.
        self.experience, self._restored = None, state.get("experience")
        self.point = state.get("point", {})
        self._ahead = SavedAhead(state["ahead"]) if "ahead" in state else None
