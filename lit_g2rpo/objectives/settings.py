"""The coefficients of an objective, with their defaults and bounds."""

import math
from typing import Any, Literal, get_args

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.kl import KlEstimator

Mean = Literal["token", "completion", "constant"]
Filtering = Literal["drop", "refill", "off"]
CHOICES = {
    "mean": get_args(Mean),
    "kl_estimator": get_args(KlEstimator),
    "entropy": ("exact", "sampled"),
    "filtering": get_args(Filtering),
}


class ObjectiveSettings:
    """Hold the coefficients of an objective.

    The defaults are those of the released code of the paper (clip-higher, dual clip, token mean, no KL).

    Args:
        loss: ``ppo`` (clipped ratio), ``cispo``, ``sapo``, the ratio of whole completions (``gspo``, ``gspo_token``),
            or the import path of a function like those of `objectives.losses`.
        loss_options: coefficients of an imported loss that are not keys here.
        mean: the loss is the mean over ``token``s, the mean over ``completion``s of their token means, or the sum
            divided by a ``constant``: completions times the length limit.
        clip_low: the lower clip of the probability ratio is ``1 - clip_low``.
        clip_high: the upper clip of the probability ratio is ``1 + clip_high``.
        dual_clip: bound on the ratio for negative advantages; None for none.
        tau_positive: temperature of ``sapo`` for positive advantages.
        tau_negative: temperature of ``sapo`` for other advantages.
        importance_cap: with ``rollout.old_logprobs: recompute``, weight each token by the trainer's over the engine's
            probability, at most this; None for no weight.
        mask_truncated: exclude completions that hit the length limit from the loss and its normalizer; their rewards
            still count in their group.
        kl_coefficient: weight of the KL penalty to the reference; 0 needs no reference.
        kl_estimator: ``k1``, ``k2`` or ``k3``, see `objectives.kl`.
        entropy_coefficient: weight of the entropy band penalty; 0 for none.
        entropy: ``exact`` full-vocabulary entropy, or the paper's ``sampled`` mean negative log-probability.
        length_weight: weight of the length reward, taken from the weight of accuracy.
        length_needs_accuracy: pay the length reward in proportion to accuracy, so that a wrong answer earns none.
        overlong_weight: what a completion loses at the length limit; 0 for nothing.
        overlong_share: the loss grows linearly over this last share of the length limit.
        filtering: ``drop`` groups that teach nothing before advantages are computed; ``refill`` also replaces them
            with more prompts of their task; ``off`` keeps them.
        accuracy_low: a group whose mean accuracy is at or below this is dropped.
        accuracy_high: a group whose mean accuracy is at or above this is dropped.
        refill_waves: with ``refill``, most times that more prompts are drawn for a rollout.

    Raises:
        UserError: if a coefficient is out of range.
    """

    def __init__(
        self,
        *,
        loss: str = "ppo",
        loss_options: dict[str, Any] | None = None,
        mean: Mean = "token",
        clip_low: float = 0.2,
        clip_high: float = 0.3,
        dual_clip: float | None = 3.0,
        tau_positive: float = 1.0,
        tau_negative: float = 1.05,
        importance_cap: float | None = None,
        mask_truncated: bool = False,
        kl_coefficient: float = 0.0,
        kl_estimator: KlEstimator = "k3",
        entropy_coefficient: float = 0.0,
        entropy: Literal["exact", "sampled"] = "exact",
        length_weight: float = 0.0,
        length_needs_accuracy: bool = False,
        overlong_weight: float = 0.0,
        overlong_share: float = 0.2,
        filtering: Filtering = "drop",
        accuracy_low: float = 0.01,
        accuracy_high: float = 0.99,
        refill_waves: int = 4,
    ) -> None:
        self.loss = loss
        self.loss_options = loss_options or {}
        self.mean: Mean = mean
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.dual_clip = dual_clip
        self.tau_positive = tau_positive
        self.tau_negative = tau_negative
        self.importance_cap = importance_cap
        self.mask_truncated = mask_truncated
        self.kl_coefficient = kl_coefficient
        self.kl_estimator: KlEstimator = kl_estimator
        self.entropy_coefficient = entropy_coefficient
        self.entropy = entropy
        self.length_weight = length_weight
        self.length_needs_accuracy = length_needs_accuracy
        self.overlong_weight = overlong_weight
        self.overlong_share = overlong_share
        self.filtering: Filtering = filtering
        self.accuracy_low = accuracy_low
        self.accuracy_high = accuracy_high
        self.refill_waves = refill_waves
        self._check()

    def _check(self) -> None:
        def refuse(name: str, rule: str) -> None:
            raise UserError(f"model.objective.{name} is {getattr(self, name)!r}; it must be {rule}")

        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                refuse(name, f"{', '.join(choices[:-1])} or {choices[-1]}")
        for name in ("clip_low", "length_weight"):
            if not 0 <= getattr(self, name) < 1:
                refuse(name, "in [0, 1)")
        for name in ("clip_high", "kl_coefficient", "entropy_coefficient", "overlong_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                refuse(name, "0 or more, and finite")
        for name in ("tau_positive", "tau_negative"):
            if not 0 < getattr(self, name) < math.inf:
                refuse(name, "above 0, and finite")
        if not 0 < self.overlong_share <= 1:
            refuse("overlong_share", "a share of the length limit, above 0 and at most 1")
        if self.dual_clip is not None and not 1 < self.dual_clip < math.inf:
            refuse("dual_clip", "above 1 and finite, or null")
        if self.importance_cap is not None and not 1 <= self.importance_cap < math.inf:
            refuse("importance_cap", "at least 1 and finite, or null")
        if self.clip_high > 10:
            refuse("clip_high", "a share such as 0.28, at most 10")
        for name in ("accuracy_low", "accuracy_high"):
            if abs(getattr(self, name)) > 1:
                refuse(name, "a share of completions, up to 1")
        if not self.accuracy_low < self.accuracy_high:
            refuse("accuracy_low", f"below accuracy_high {self.accuracy_high}")
        if self.refill_waves < 1:
            refuse("refill_waves", "at least 1")
