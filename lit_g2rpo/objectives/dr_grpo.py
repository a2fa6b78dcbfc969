"""Dr. GRPO: rewards less their group's mean, and a loss normalised by a constant."""

from typing import Any

from torch import Tensor

from lit_g2rpo.objectives.advantages import centered
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Mean, Objective


class DrGRPO(Objective):
    """GRPO done right: no division by a group's deviation, and none by the lengths of completions.

    Args:
        mean: see `Objective`; a constant unless said otherwise.
        kwargs: coefficients of the loss, see `Objective`.

    Source: arXiv 2503.20783, section 3.2.
    """

    def __init__(self, *, mean: Mean = "constant", **kwargs: Any) -> None:
        super().__init__(mean=mean, **kwargs)

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout into advantages.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return centered(batch.rewards, batch.group_ids, valid=batch.valid)
