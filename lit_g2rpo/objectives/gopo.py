"""GOPO: ranks of a group spread evenly."""

from torch import Tensor

from lit_g2rpo.objectives.advantages import linear_ranks
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class GOPO(Objective):
    """Group ordinal policy optimization: linear ranks from -2 to 2, the uniform counterpart of the Gaussian map.

    Source: arXiv 2602.03876.
    """

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout into advantages.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return linear_ranks(batch.rewards, batch.group_ids, valid=batch.valid)
