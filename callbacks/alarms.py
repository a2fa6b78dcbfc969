"""Alarms for problems that ruin a run silently, such as rollouts that teach nothing or an engine that disagrees."""

import math
from collections.abc import Mapping
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
"""Error codes that concern the completion; all others mean that its reward failed."""

MEANING = {
    "unformed": "share of completions that are wrong and not in the form the prompt asks for",
    "tied_groups": "share of groups whose rewards are all equal",
    "truncated": "share of completions cut off at the length limit",
    "logprob_gap": "mean difference between the engine's and the trainer's log-probabilities, nats",
    "misplaced_tokens": "pad, image or video tokens per completion",
    "reward_failures": "share of completions whose reward failed",
}
CURE = {
    "unformed": "the policy does not follow the wording of its prompts, so hardly anything earns a reward: give "
    "the wording it was trained with in data.prompt_template, take a policy that follows instructions, or teach it the "
    "form first, as configs/sft.yaml does",
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
FOLLOWS = ("tied_groups", "below_start")
"""Alarms that a missing form also triggers."""


class Alarms(L.Callback):
    """Watch quantities of each rollout that should stay small, and warn when one stays large.

    Each rollout logs ``alarm/value/<name>``, and ``alarm/<name>``: 1 while the value has been above its threshold for
    at least ``patience`` rollouts in a row, else 0. There is one warning each time an alarm turns on. All values are
    over all ranks, so every rank makes the same decision. `EntropyBounds` handles exits from the entropy band. Each
    validation logs ``alarm/below_start``, 1 if it finds the policy worse than the first one did, else 0, and the
    warning names what became worse; in the last validation, any loss counts, however small, and so does an accuracy of
    0. If completions of the first validation lack the form, the alarm is raised before training samples anything.

    Args:
        unformed: largest share of completions that earn nothing because they lack the form that the prompt asks for,
            among tasks with the built-in reward.
        tied_groups: largest share of groups whose rewards are all equal. Ties within a group, which are common if
            rewards are 0 or 1, are no cause for alarm.
        truncated: largest share of completions cut off at the length limit.
        logprob_gap: largest mean absolute difference between engine and trainer, nats: over the tokens of the rollout
            with ``rollout.old_logprobs: recompute``, else the metric ``train/logprob_gap``.
        misplaced_tokens: largest number per completion of tokens that do not belong in it: images, videos, and pads
            before the end.
        reward_failures: largest share of completions whose reward failed because of the reward or the data.
        below_start: largest loss of mean validation accuracy relative to the first validation.
        patience: number of rollouts in a row with too large a value; validations count immediately.
        action: ``warn``, or ``stop`` to also end the training.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(
        self,
        unformed: float = 0.95,
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
            "unformed": unformed,
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
                sample = f" (one of them: {wrote(rollout)!r})" if name == "unformed" else ""
                self._raise(trainer, name, f"{MEANING[name]} is {value:.3g}, {above}{sample}")
        pl_module.log_dict(logged)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = run_of(pl_module)
        history = [values for values in run.validation_history if METRIC in values]
        if trainer.state.fn != TrainerFn.FITTING or not history:
            return
        first, last = history[0], history[-1]
        if len(history) == 1:
            share = unformed_share(run, first)
            if share > self.thresholds["unformed"] and self._consecutive.get("unformed", 0) < self.patience:
                self._consecutive["unformed"] = self.patience
                self._raise(trainer, "unformed", f"{MEANING['unformed']} is {share:.3g} in the first validation")
            return
        lost = describe_decline(first, last)
        far = fall(first, last) > self.thresholds["below_start"] or not last[METRIC]
        on = lost is not None and (far or trainer.should_stop or training_ends(trainer))
        if on and not self._consecutive.get("below_start"):
            self._raise(trainer, "below_start", str(lost))
        self._consecutive["below_start"] = int(on)
        run.send({"alarm/below_start": float(on)})

    def _raise(self, trainer: L.Trainer, name: str, text: str) -> None:
        # alarms caused by a missing form need its cure
        cause = "unformed" if self._consecutive.get("unformed") and name in FOLLOWS else name
        rank_zero_warn(f"alarm {name}: {text}: {CURE[cause]}")
        if self.action == "stop":
            trainer.should_stop = True
            rank_zero_info(f"Alarms stops the training because of {name}.")

    @override
    def state_dict(self) -> dict[str, Any]:
        # for each alarm, the number of rollouts in a row with too large a value
        return {"consecutive": dict(self._consecutive)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._consecutive = dict(state_dict["consecutive"])


def measure(run: Run, rollout: Experience) -> dict[str, float]:
    """Measure a rollout over all ranks, given this rank's part of it.

    Returns:
        Value of each alarm; NaN for ``logprob_gap`` if the trainer computed no log-probabilities of the weights that
        sampled, and for ``unformed`` if every task has a custom reward.
    """
    completions, policy = rollout.completions, run.policy
    asked = [run.tasks[prompt.task].reward is None for prompt in rollout.prompts]
    repeats = len(completions) // max(len(asked), 1)
    form = [reward for i, reward in enumerate(rollout.rewards) if asked[i // repeats]]
    sums = [
        float(len(form)),
        float(sum(map(unformed, form))),
        float(len(completions)),
        float(sum(completion.truncated for completion in completions)),
        float(misplaced(completions, policy.forbidden_token_ids, policy.pad_token_id)),
        float(sum(failed(reward) for reward in rollout.rewards)),
        # with a lag, they would mostly differ by what was learned in the meantime
        *gap_sums(completions, None if run.rollout.lag else rollout.old_logprobs),
    ]
    own = torch.tensor(sums, dtype=torch.float64)
    formed, without, total, truncated, wrong, failures, gap, tokens = run.ranks.sum(own).tolist()
    return {
        "unformed": without / formed if formed else math.nan,
        "tied_groups": tie_stats(rollout.table.rewards)["tied_groups"],
        "truncated": truncated / total,
        "logprob_gap": gap / tokens if tokens else math.nan,
        "misplaced_tokens": wrong / total,
        "reward_failures": failures / total,
    }


def unformed(reward: RewardResult) -> bool:
    """Return whether a completion earned nothing and lacks the required form."""
    return not reward.format and not reward.accuracy


def wrote(rollout: Experience, length: int = 60) -> str:
    """Return the first ``length`` characters of a completion that lacks the form."""
    texts = (c.text for c, reward in zip(rollout.completions, rollout.rewards, strict=True) if unformed(reward))
    return next(texts, "")[:length]


def unformed_share(run: Run, metrics: Mapping[str, float]) -> float:
    """Compute a lower bound on the share of a validation's completions that lack the form and are wrong.

    Args:
        run: the run, of which only tasks with the built-in reward count.
        metrics: metrics of the validation, by name.
    """
    shares = [
        1 - metrics[f"val/format/{name}"] - metrics[f"val/accuracy/{name}"]
        for name, task in run.tasks.items()
        if task.reward is None and {f"val/format/{name}", f"val/accuracy/{name}"} <= metrics.keys()
    ]
    return sum(shares) / len(shares) if shares else 0.0


def misplaced(completions: list[Completion], forbidden: list[int], pad: int) -> int:
    """Count image and video tokens, and pads before the last token, which may be a pad that ends the completion."""
    tokens = torch.cat([completion.token_ids for completion in completions])
    inside = torch.cat([completion.token_ids[:-1] for completion in completions])
    return int(torch.isin(tokens, torch.tensor(forbidden)).sum()) + int((inside == pad).sum())


def failed(reward: RewardResult) -> bool:
    """Return whether a score is missing because of the reward or the data, not the completion."""
    return reward.error is not None and reward.error not in POLICY_ERRORS


def gap_sums(completions: list[Completion], old_logprobs: list[Tensor] | None) -> tuple[float, float]:
    """Sum the differences between the trainer's log-probabilities and the engine's.

    Args:
        old_logprobs: the trainer's, ``[T_i]`` each; the engine's own tensor where none were computed.

    Returns:
        Sum of the absolute differences, nats, and the number of tokens compared.
    """
    pairs = zip(completions, old_logprobs or [], strict=False)
    gaps = [(old - done.logprobs).double().abs() for done, old in pairs if old is not done.logprobs]
    return float(sum(gap.sum() for gap in gaps)), float(sum(map(len, gaps)))
