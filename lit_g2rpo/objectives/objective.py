"""The objective: how scored completions become advantages, and what the loss of a token is."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lit_g2rpo.objectives.advantages import Estimator
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.kl import kl_penalty
from lit_g2rpo.objectives.losses import TokenLosses, build_loss
from lit_g2rpo.objectives.settings import ObjectiveSettings


class Objective(ObjectiveSettings):
    """Form advantages and the loss; subclasses give an estimator of advantages.

    Args:
        kwargs: coefficients, see `ObjectiveSettings`.

    Raises:
        UserError: if a coefficient is out of range, or there is no such loss.
    """

    needs_groups: ClassVar[bool] = True
    """True if completions of one prompt are compared, so that it must have several."""

    estimator: Estimator

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss = build_loss(self.loss, vars(self), self.loss_options)

    @property
    def elementwise(self) -> bool:
        """True if the loss of a token depends on no other token, so that a head may form its gradient tile by tile."""
        return self._loss.elementwise

    def state_dict(self) -> dict[str, Any]:
        """Return what the objective learns during a run, for the checkpoint; nothing unless a subclass says so."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; that of another objective may hold nothing."""

    def compared(self, columns: Mapping[str, Tensor]) -> list[Tensor]:
        """Pick the rewards that are compared inside a group, which teaches nothing where all of them tie.

        Args:
            columns: ``reward``, the total, and its parts by name, each ``[P, G]``.
        """
        return [columns["reward"]]

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout over all ranks into advantages ``[N]``, 0 where ``batch.valid`` is False."""
        return self.estimator(batch.rewards, batch.group_ids, batch.problem_type_ids, valid=batch.valid)

    def token_loss(self, logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> TokenLosses:
        """Form the loss of each token, whose sum is the loss.

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
