"""REINFORCE++ with baseline: rewards less their group's mean, whitened over the batch."""

from torch import Tensor

from lit_g2rpo.objectives.advantages import whitened
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class ReinforcePP(Objective):
    """REINFORCE++ with a group baseline.

    Source: arXiv 2501.03262, section 3.
    """

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Turn the rewards of a rollout into advantages.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return whitened(batch.rewards, batch.group_ids, valid=batch.valid)
