"""The objective: how scored completions become advantages, and what the loss of a token is."""

import math
from typing import Literal

from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.losses import clipped_loss, kl_penalty


class Objective:
    """Advantages plus loss, with their coefficients; subclasses say how advantages are formed.

    The defaults are those of the released code of the paper (clip-higher, dual clip, token mean, no KL).

    Args:
        clip_low: lower clip of the probability ratio is ``1 - clip_low``.
        clip_high: upper clip of the probability ratio is ``1 + clip_high``.
        dual_clip: bound on the ratio for negative advantages; None for none.
        kl_coefficient: weight of the KL penalty to the reference; 0 needs no reference.
        entropy_coefficient: weight of the entropy band penalty; 0 for none.
        entropy: ``exact`` full-vocabulary entropy, or the paper's ``sampled`` mean negative log-probability.
        length_weight: weight of the length reward, taken from accuracy's share.
        filtering: ``drop`` groups that teach nothing before advantages are formed, or ``off``.
        accuracy_low: with ``drop``, a group whose mean accuracy is at or below this is dropped.
        accuracy_high: with ``drop``, a group whose mean accuracy is at or above this is dropped.

    Raises:
        UserError: if a coefficient is out of range.
    """

    needs_groups = True

    def __init__(
        self,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.3,
        dual_clip: float | None = 3.0,
        kl_coefficient: float = 0.0,
        entropy_coefficient: float = 0.0,
        entropy: Literal["exact", "sampled"] = "exact",
        length_weight: float = 0.0,
        filtering: Literal["drop", "off"] = "drop",
        accuracy_low: float = 0.01,
        accuracy_high: float = 0.99,
    ) -> None:
        for name, value in {"clip_low": clip_low, "length_weight": length_weight}.items():
            if not 0 <= value < 1:
                raise UserError(f"model.objective.{name} is {value}; it must be in [0, 1)")
        coefficients = {
            "clip_high": clip_high,
            "kl_coefficient": kl_coefficient,
            "entropy_coefficient": entropy_coefficient,
        }
        for name, value in coefficients.items():
            if not 0 <= value < math.inf:
                raise UserError(f"model.objective.{name} is {value}; it must be 0 or more, and finite")
        if dual_clip is not None and not 1 < dual_clip < math.inf:
            raise UserError(f"model.objective.dual_clip is {dual_clip}; it must be above 1 and finite, or null")
        for name, choice, choices in (
            ("entropy", entropy, ("exact", "sampled")),
            ("filtering", filtering, ("drop", "off")),
        ):
            if choice not in choices:
                raise UserError(f"model.objective.{name} is {choice!r}; it must be {' or '.join(choices)}")
        if not accuracy_low < accuracy_high:
            raise UserError(
                f"model.objective.accuracy_low is {accuracy_low}; it must be below accuracy_high {accuracy_high}"
            )
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.dual_clip = dual_clip
        self.kl_coefficient = kl_coefficient
        self.entropy_coefficient = entropy_coefficient
        self.entropy = entropy
        self.length_weight = length_weight
        self.filtering = filtering
        self.accuracy_low = accuracy_low
        self.accuracy_high = accuracy_high

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout into advantages.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        raise NotImplementedError

    def token_loss(self, logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each token, elementwise, so that a head may form the gradient tile by tile.

        Args:
            logprobs: log-probabilities under the current policy, nats, ``[M]``.
            entropy: exact entropy of the token's distribution, nats, ``[M]``.
            fields: everything else the loss depends on.

        Returns:
            The loss of each token ``[M]`` (its sum is the loss), and named diagnostics, each ``[M]``.
        """
        loss, metrics = clipped_loss(
            logprobs,
            fields.old_logprobs,
            fields.advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
        if self.kl_coefficient:
            assert fields.ref_logprobs is not None
            kl = kl_penalty(logprobs, fields.ref_logprobs)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coefficient * kl
        loss = fields.weight * loss
        if self.entropy_coefficient:
            loss = loss + fields.entropy_weight * (entropy if self.entropy == "exact" else -logprobs)
        return loss, metrics
