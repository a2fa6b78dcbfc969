"""GRPO: rewards standardised inside each group."""

from torch import Tensor

from lit_g2rpo.objectives.advantages import standardized
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class GRPO(Objective):
    """Group-relative policy optimization: rewards less their group's mean, over its standard deviation.

    Source: arXiv 2402.03300, section 4.1.2.
    """

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Standardise the rewards of a rollout inside each group.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.
        """
        return standardized(batch.rewards, batch.group_ids, valid=batch.valid)
