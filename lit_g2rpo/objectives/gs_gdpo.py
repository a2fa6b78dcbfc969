"""GS-GDPO: each part of the reward mapped onto a standard normal by itself, their sum mapped again."""

from torch import Tensor

from lit_g2rpo.objectives.advantages import gaussian_decoupled
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.gdpo import GDPO


class GaussianGDPO(GDPO):
    """The Gaussian map on each component inside its group, and on their sum across the answer format.

    Source: released code of arXiv 2604.08539 (estimator ``gs_gdpo``).
    """

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Map each component in its group, and their sum over the rollout.

        Args:
            batch: scored completions of all ranks.

        Returns:
            Advantages ``[N]``, 0 where ``batch.valid`` is False.

        Raises:
            UserError: if the batch has none of the components.
        """
        return gaussian_decoupled(self.present(batch), batch.group_ids, batch.problem_type_ids, valid=batch.valid)
