"""Objectives whose advantages compare the total rewards of a group, one estimator each."""

from typing import Any

from lit_g2rpo.objectives.advantages import centered, leave_one_out, linear_ranks, standardized, whitened
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.settings import Mean


class GRPO(Objective):
    """Group-relative policy optimization: rewards minus their group's mean, divided by its standard deviation.

    Source: arXiv 2402.03300, section 4.1.2.
    """

    estimator = staticmethod(standardized)


class DrGRPO(Objective):
    """GRPO without division by a group's standard deviation or by the lengths of completions.

    Args:
        mean: see `Objective`; a constant by default.
        kwargs: coefficients of the loss, see `Objective`.

    Source: arXiv 2503.20783, section 3.2.
    """

    estimator = staticmethod(centered)

    def __init__(self, *, mean: Mean = "constant", **kwargs: Any) -> None:
        super().__init__(mean=mean, **kwargs)


class RLOO(Objective):
    """REINFORCE leave-one-out: each reward minus the mean of the others in its group.

    Source: arXiv 2402.14740, section 2.2.
    """

    estimator = staticmethod(leave_one_out)


class ReinforcePP(Objective):
    """REINFORCE++ with a group baseline: rewards minus their group's mean, whitened over the batch.

    Source: arXiv 2501.03262, section 3.
    """

    estimator = staticmethod(whitened)


class GOPO(Objective):
    """Group ordinal policy optimization: linear ranks from -2 to 2, the uniform counterpart of the Gaussian map.

    Source: arXiv 2602.03876.
    """

    estimator = staticmethod(linear_ranks)
