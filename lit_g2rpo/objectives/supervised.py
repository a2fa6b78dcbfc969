"""Supervised fine-tuning on the demonstrations of the data."""

import torch
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.losses import TokenLosses
from lit_g2rpo.objectives.objective import Objective


class Supervised(Objective):
    """Minimize the negative log-probability of demonstrations, without sampling, scoring or dropping.

    Args:
        length_power: a token's weight is 1 / length ** length_power: 0 is the token mean, which long completions
            dominate; 1 is the mean over completions; 0.5 is in between.

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

    @override
    def advantages(self, batch: ScoredBatch) -> Tensor:
        # weights with mean 1 over tokens, so that the loss stays a weighted mean at every power
        lengths = torch.where(batch.valid, batch.components["length"], 0.0)
        factors = torch.where(batch.valid, lengths.clamp(min=1) ** -self.length_power, 0.0)
        return factors * lengths.sum() / (factors * lengths).sum().clamp(min=1e-12)

    @override
    def token_loss(self, logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> TokenLosses:
        return -fields.weight * fields.advantages * logprobs, {"nll": -logprobs.detach()}
