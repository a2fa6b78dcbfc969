"""G2RPO: advantages that follow a standard normal in every task."""

from typing import Any, Literal

from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.advantages import Scope, gaussian
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective


class G2RPO(Objective):
    """Map rewards by rank onto a standard normal, so that tasks of any reward scale have equal weight; Gaussian GRPO.

    Args:
        scope: where the map is applied: inside each ``group``, across each ``task``, ``group_then_task`` in sequence,
            or ``group_unit_rms`` (inside each group, then each task scaled to unit root mean square).
        advantage_key: the unit that the map treats as a task: the answer format ``problem_type``, or the shaping unit
            ``task``.
        kwargs: coefficients of the loss, see `Objective`.

    Source: arXiv 2604.08539, eq. 5-8.
    """

    def __init__(
        self,
        *,
        scope: Scope = "group_then_task",
        advantage_key: Literal["problem_type", "task"] = "problem_type",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if advantage_key not in ("problem_type", "task"):
            raise UserError(f"model.objective.advantage_key is {advantage_key!r}; it must be problem_type or task")
        self.scope: Scope = scope
        self.advantage_key = advantage_key

    @override
    def advantages(self, batch: ScoredBatch) -> Tensor:
        task_ids = batch.problem_type_ids if self.advantage_key == "problem_type" else batch.task_ids
        return gaussian(batch.rewards, batch.group_ids, task_ids, scope=self.scope, valid=batch.valid)
