"""GDPO and GS-GDPO: advantages from the parts of the reward, each compared separately."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.advantages import decoupled, gaussian_decoupled
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class GDPO(Objective):
    """Standardize each component in its group and their sum over the batch; group reward-decoupled policy optimization.

    The total reward is not used, so length shaping does not affect the advantages.

    Args:
        components: the parts of the reward to use; those missing from the rewards of the data are skipped.
        kwargs: coefficients of the loss, see `Objective`.

    Raises:
        UserError: if no component is named, or if ``length`` is, a token count and not a part of the reward.

    Source: arXiv 2601.05242, section 3.
    """

    def __init__(self, *, components: Sequence[str] = ("accuracy", "format", "structure"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not components or "length" in components:
            raise UserError(
                f"model.objective.components is {list(components)}; name parts of the reward, such as accuracy"
            )
        self.components = tuple(components)

    @override
    def compared(self, columns: Mapping[str, Tensor]) -> list[Tensor]:
        return [columns[name] for name in self.components if name in columns] or super().compared(columns)

    @override
    def advantages(self, batch: ScoredBatch) -> Tensor:
        return decoupled(self.present(batch), batch.group_ids, valid=batch.valid)

    def present(self, batch: ScoredBatch) -> dict[str, Tensor]:
        """Select the components that the rewards of the data have, each ``[N]``; reject a batch without any."""
        present = {name: batch.components[name] for name in self.components if name in batch.components}
        if not present:
            raise UserError(
                f"model.objective.components is {list(self.components)}; the rewards have {sorted(batch.components)}"
            )
        return present


class GaussianGDPO(GDPO):
    """Apply the Gaussian map to each component inside its group, and to their sum across the answer format.

    Source: released code of arXiv 2604.08539 (estimator ``gs_gdpo``).
    """

    @override
    def advantages(self, batch: ScoredBatch) -> Tensor:
        return gaussian_decoupled(self.present(batch), batch.group_ids, batch.problem_type_ids, valid=batch.valid)
