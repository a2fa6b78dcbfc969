"""EMA-GRPO: rewards minus their group's mean, divided by a running deviation of their task."""

from typing import Any

from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.advantages import EmaStandardized
from lit_g2rpo.objectives.objective import Objective


class EmaGRPO(Objective):
    """Scale rewards per answer format by a running mean and mean square; OneThinker's objective.

    Args:
        decay: weight of the past in the running moments, in [0, 1).
        kwargs: coefficients of the loss, see `Objective`.

    Raises:
        UserError: if ``decay`` is out of range.

    Source: arXiv 2512.03043, eq. 9-11.
    """

    estimator: EmaStandardized

    def __init__(self, *, decay: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= decay < 1:
            raise UserError(f"model.objective.decay is {decay}; it must be in [0, 1)")
        self.estimator = EmaStandardized(decay)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.estimator.state_dict()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        # another objective's state has none, so they start afresh
        self.estimator.load_state_dict(state.get("moments", {}))
