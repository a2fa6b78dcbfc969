"""RLOO: each reward less the mean of the others in its group."""

from torch import Tensor

from lit_g2rpo.objectives.advantages import leave_one_out
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class RLOO(Objective):
    """REINFORCE leave-one-out.

    Source: arXiv 2402.14740, section 2.2.
    """

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout into advantages.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return leave_one_out(batch.rewards, batch.group_ids, valid=batch.valid)
