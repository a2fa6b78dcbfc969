"""The objective: advantages from scored completions, and the loss of a token."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lit_g2rpo.objectives.advantages import Estimator
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.kl import kl_penalty
from lit_g2rpo.objectives.losses import TokenLosses, build_loss
from lit_g2rpo.objectives.settings import ObjectiveSettings


class Objective(ObjectiveSettings):
    """Compute advantages and the loss; subclasses provide an estimator of advantages.

    Args:
        kwargs: coefficients, see `ObjectiveSettings`.

    Raises:
        UserError: if a coefficient is out of range, or there is no such loss.
    """

    needs_groups: ClassVar[bool] = True
    """True if completions of one prompt are compared, so each prompt needs several."""

    estimator: Estimator

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss = build_loss(self.loss, vars(self), self.loss_options)

    @property
    def elementwise(self) -> bool:
        """True if the loss of a token depends on no other token, so a head may compute its gradient tile by tile."""
        return self._loss.elementwise

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the objective learns during a run, for the checkpoint; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`; another objective's may be empty."""

    def compared(self, columns: Mapping[str, Tensor]) -> list[Tensor]:
        """Select the rewards that are compared inside a group, which teaches nothing if all of them tie.

        Args:
            columns: ``reward``, the total, and its parts by name, each ``[P, G]``.
        """
        return [columns["reward"]]

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout over all ranks into advantages ``[N]``, 0 where ``batch.valid`` is False."""
        return self.estimator(batch.rewards, batch.group_ids, batch.problem_type_ids, valid=batch.valid)

    def token_loss(self, logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> TokenLosses:
        """Compute the loss of each token; the total loss is their sum.

        Args:
            logprobs: log-probabilities under the current policy, nats, ``[M]``.
            entropy: exact entropy of the token's distribution, nats, ``[M]``.
            fields: everything else the loss depends on.
        """
        loss, metrics = self._loss(logprobs, fields)
        if fields.importance is not None:
            loss = fields.importance * loss
            metrics["importance"] = fields.importance
        if self.kl_coefficient:
            assert fields.ref_logprobs is not None
            kl = kl_penalty(logprobs, fields.ref_logprobs, estimator=self.kl_estimator)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coefficient * kl
        loss = fields.weight * loss
        if self.entropy_coefficient:
            loss = loss + fields.entropy_weight * (entropy if self.entropy == "exact" else -logprobs)
        return loss, metrics
