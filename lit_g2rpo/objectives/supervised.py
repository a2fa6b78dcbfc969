"""Supervised fine-tuning on the demonstrations of the data."""

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.objective import Objective


class Supervised(Objective):
    """Negative log-probability of the demonstrations; nothing is sampled, scored or dropped.

    Args:
        length_power: a token weighs 1 / length ** length_power: 0 is the token mean, which long completions dominate;
            1 is the mean over completions; 0.5 lies between.

    Raises:
        UserError: if ``length_power`` is outside [0, 1].

    Source: arXiv 2412.05271, section 3.3 (square averaging, ``length_power`` 0.5).
    """

    needs_groups = False

    def __init__(self, *, length_power: float = 0.5) -> None:
        super().__init__(filtering="off")
        if not 0 <= length_power <= 1:
            raise UserError(f"model.objective.length_power is {length_power}; it must be in [0, 1]")
        self.length_power = length_power

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Weigh each completion by its length.

        Args:
            batch: completions of all ranks, with their ``length`` in tokens among the components.

        Returns:
            Weights ``[N]`` whose mean over tokens is 1, so that the loss stays a weighted mean; all 1 if
            ``length_power`` is 0; 0 where ``batch.valid`` is False.
        """
        lengths = torch.where(batch.valid, batch.components["length"], 0.0)
        factors = torch.where(batch.valid, lengths.clamp(min=1) ** -self.length_power, 0.0)
        return factors * lengths.sum() / (factors * lengths).sum().clamp(min=1e-12)

    def token_loss(self, logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted negative log-probability of each token.

        Args:
            logprobs: log-probabilities under the current policy, nats, ``[M]``.
            entropy: not read.
            fields: ``weight`` and ``advantages`` of each token.

        Returns:
            The loss of each token ``[M]``, and its unweighted negative log-probability as ``nll`` ``[M]``.
        """
        return -fields.weight * fields.advantages * logprobs, {"nll": -logprobs.detach()}
