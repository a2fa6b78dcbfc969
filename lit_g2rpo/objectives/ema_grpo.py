"""EMA-GRPO: rewards less their group's mean, over a running deviation of their task."""

from typing import Any

from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.advantages import EmaStandardized
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class EmaGRPO(Objective):
    """OneThinker's objective: one scale per answer format, from a running mean and mean square of its rewards.

    Args:
        decay: weight of the past in the running moments, in [0, 1).
        kwargs: coefficients of the loss, see `Objective`.

    Raises:
        UserError: if ``decay`` is out of range.

    Source: arXiv 2512.03043, eq. 9-11.
    """

    def __init__(self, *, decay: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= decay < 1:
            raise UserError(f"model.objective.decay is {decay}; it must be in [0, 1)")
        self.estimator = EmaStandardized(decay)

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Update the running moments and standardise the rewards of a rollout.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return self.estimator(batch.rewards, batch.group_ids, batch.problem_type_ids, valid=batch.valid)

    def state_dict(self) -> dict[str, Any]:
        """Return the running moments."""
        return {"moments": self.estimator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the running moments back.

        Args:
            state: what `state_dict` returned; that of another objective holds none, and they start afresh.
        """
        self.estimator.load_state_dict(state.get("moments", {}))
