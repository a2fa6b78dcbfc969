"""Alarms for what ruins a run in silence, such as nothing to learn from or an engine that disagrees."""

import math
from typing import Any, Literal, get_args

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.callbacks.decline import METRIC, describe_decline, fall
from lit_g2rpo.callbacks.logged import metric
from lit_g2rpo.callbacks.moments import training_ends
from lit_g2rpo.callbacks.plots.advantage_stats import tie_stats
from lit_g2rpo.callbacks.watch import RolloutWatch
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Experience
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.training.run import Run, run_of

POLICY_ERRORS = ("no_answer", "unparsed", "answer_too_long", "completion_too_long", "not_applicable")
"""Error codes that say something of the completion; all others say that its reward failed."""

MEANING = {
    "tied_groups": "share of groups whose rewards are all equal",
    "truncated": "share of completions cut off at the length limit",
    "logprob_gap": "mean difference between the engine's and the trainer's log-probabilities, nats",
    "misplaced_tokens": "pad, image or video tokens per completion",
    "reward_failures": "share of completions whose reward failed",
}
CURE = {
    "tied_groups": "such groups teach nothing: mix in easier or harder prompts, raise the temperature or "
    "model.rollout.group_size, or set model.objective.filtering: refill",
    "truncated": "raise data.max_completion_tokens, narrow the length bands, or set model.objective.mask_truncated",
    "logprob_gap": "check that engine and trainer hold the same weights, type and temperature; "
    "model.rollout.old_logprobs: recompute with model.objective.importance_cap corrects for a small gap",
    "misplaced_tokens": "check that the engine forbids these tokens and that the tokenizer is the policy's own",
    "below_start": "what was learned does not help: lower the learning rate, raise model.objective.kl_coefficient, or "
    "look at the rollouts of the tasks that fell",
    "reward_failures": "see reward_failures_rank<r>.jsonl of the run; python -m lit_g2rpo reward test tells more",
}


class Alarms(L.Callback):
    """Watch quantities of each rollout that should stay small, and say so when one stays large.

    Each rollout logs ``alarm/value/<name>``, and ``alarm/<name>``: 1 while the value has been above its threshold for
    at least ``patience`` rollouts in a row, else 0. There is one warning each time an alarm goes on. All values are
    over all ranks, so that every rank decides alike. `EntropyBounds` handles exits from the entropy band. A validation
    that finds the policy worse than the first one did logs ``alarm/below_start``, 1 or 0, and the warning names what
    became worse; the last one counts however small the loss is, and so does an accuracy of 0.

    Args:
        tied_groups: largest share of groups whose rewards are all equal. Completions tied with some other, as most are
            under a reward of 0 or 1, are no cause for alarm.
        truncated: largest share of completions cut off at the length limit.
        logprob_gap: largest mean absolute difference between engine and trainer, nats: over the tokens of the rollout
            with ``rollout.old_logprobs: recompute``, else the metric ``train/logprob_gap``.
        misplaced_tokens: most tokens per completion that have no place in one: images, videos, and pads that do not
            end it.
        reward_failures: largest share of completions whose reward failed, by its own fault or the data's.
        below_start: largest loss of mean validation accuracy against the first validation.
        patience: rollouts in a row that a value must be too large; validations count at once.
        action: ``warn``, or ``stop`` to end the training as well.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(
        self,
        tied_groups: float = 0.8,
        truncated: float = 0.2,
        logprob_gap: float = 0.05,
        misplaced_tokens: float = 0.0,
        reward_failures: float = 0.01,
        below_start: float = 0.05,
        patience: int = 3,
        action: Literal["warn", "stop"] = "warn",
    ) -> None:
        self.thresholds = {
            "tied_groups": tied_groups,
            "truncated": truncated,
            "logprob_gap": logprob_gap,
            "misplaced_tokens": misplaced_tokens,
            "reward_failures": reward_failures,
            "below_start": below_start,
        }
        for name, threshold in self.thresholds.items():
            if not threshold >= 0:
                raise UserError(f"Alarms.{name} is {threshold}; it must be 0 or more")
        if patience < 1:
            raise UserError(f"Alarms.patience is {patience}; it must be at least 1 rollout")
        if action not in get_args(Literal["warn", "stop"]):
            raise UserError(f"Alarms.action is {action!r}; it must be warn or stop")
        self.patience, self.action = patience, action
        self._watch = RolloutWatch()
        self._consecutive: dict[str, int] = {}

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._watch.start(run_of(pl_module))

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = run_of(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None:
            return
        values = measure(run, rollout)
        if math.isnan(values["logprob_gap"]):
            gap = metric(trainer, "train/logprob_gap")
            values["logprob_gap"] = math.nan if gap is None else gap
        logged: dict[str, float] = {}
        for name, value in values.items():
            if math.isnan(value):
                continue
            count = self._consecutive.get(name, 0) + 1 if value > self.thresholds[name] else 0
            self._consecutive[name] = count
            logged |= {f"alarm/value/{name}": value, f"alarm/{name}": float(count >= self.patience)}
            if count == self.patience:
                above = f"above {self.thresholds[name]:g} for {self.patience} rollouts"
                self._raise(trainer, name, f"{MEANING[name]} is {value:.3g}, {above}")
        pl_module.log_dict(logged)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = run_of(pl_module)
        history = [values for values in run.validation_history if METRIC in values]
        if trainer.state.fn != TrainerFn.FITTING or len(history) < 2:
            return
        first, last = history[0], history[-1]
        lost = describe_decline(first, last)
        far = fall(first, last) > self.thresholds["below_start"] or not last[METRIC]
        on = lost is not None and (far or trainer.should_stop or training_ends(trainer))
        if on and not self._consecutive.get("below_start"):
            self._raise(trainer, "below_start", str(lost))
        self._consecutive["below_start"] = int(on)
        for logger in trainer.loggers:
            logger.log_metrics({"alarm/below_start": float(on)}, step=run.rollout_index)
            logger.save()

    def _raise(self, trainer: L.Trainer, name: str, text: str) -> None:
        rank_zero_warn(f"alarm {name}: {text}: {CURE[name]}")
        if self.action == "stop":
            trainer.should_stop = True
            rank_zero_info(f"Alarms stops the training because of {name}.")

    @override
    def state_dict(self) -> dict[str, Any]:
        # by alarm, how many rollouts in a row its value has been too large
        return {"consecutive": dict(self._consecutive)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._consecutive = dict(state_dict["consecutive"])


def measure(run: Run, rollout: Experience) -> dict[str, float]:
    """Measure a rollout over all ranks, given this rank's part of it.

    Returns:
        Value of each alarm; NaN for ``logprob_gap`` where the trainer computed no log-probabilities of its own.
    """
    completions, policy = rollout.completions, run.policy
    sums = [
        float(len(completions)),
        float(sum(completion.truncated for completion in completions)),
        float(misplaced(completions, policy.forbidden_token_ids, policy.pad_token_id)),
        float(sum(failed(reward) for reward in rollout.rewards)),
        *gap_sums(completions, rollout.old_logprobs),
    ]
    own = torch.tensor(sums, dtype=torch.float64)
    total, truncated, wrong, failures, gap, tokens = run.ranks.sum(own).tolist()
    return {
        "tied_groups": tie_stats(rollout.table.rewards)["tied_groups"],
        "truncated": truncated / total,
        "logprob_gap": gap / tokens if tokens else math.nan,
        "misplaced_tokens": wrong / total,
        "reward_failures": failures / total,
    }


def misplaced(completions: list[Completion], forbidden: list[int], pad: int) -> int:
    """Count image and video tokens, and pads before the last token; the last may end a completion by the pad's id."""
    tokens = torch.cat([completion.token_ids for completion in completions])
    inside = torch.cat([completion.token_ids[:-1] for completion in completions])
    return int(torch.isin(tokens, torch.tensor(forbidden)).sum()) + int((inside == pad).sum())


def failed(reward: RewardResult) -> bool:
    """Tell whether a score is missing by the fault of the reward or the data, not of the completion."""
    return reward.error is not None and reward.error not in POLICY_ERRORS


def gap_sums(completions: list[Completion], old_logprobs: list[Tensor] | None) -> tuple[float, float]:
    """Add up how far the trainer's log-probabilities are from the engine's.

    Args:
        old_logprobs: the trainer's, ``[T_i]`` each; the engine's own tensor stands in where none were computed.

    Returns:
        Sum of the absolute differences, nats, and the number of tokens compared.
    """
    pairs = zip(completions, old_logprobs or [], strict=False)
    gaps = [(old - done.logprobs).double().abs() for done, old in pairs if old is not done.logprobs]
    return float(sum(gap.sum() for gap in gaps)), float(sum(map(len, gaps)))
