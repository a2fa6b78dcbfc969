"""Objectives for `study` that disturb rewards before computing advantages.

Measured accuracy is unchanged; only the objective sees the disturbed reward, both the total and the part. Every class
here is one of the project's objectives with an extra argument.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo import objectives
from lit_g2rpo.mini.tasks import TASKS
from lit_g2rpo.objectives.fields import ScoredBatch
from lit_g2rpo.objectives.objective import Objective

ACCURACY_WEIGHT = 0.9
"""Weight of accuracy in the total of the built-in reward."""
FLIPPED = 0.1
"""Fraction of a noisy task's groups whose accuracy is inverted."""


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda accuracy: factor * accuracy


def _heavy(accuracy: Tensor) -> Tensor:
    """Stretch the upper end: 0 stays 0, 0.5 becomes 0.94, 0.75 becomes 2.7, 1 becomes 49.0."""
    return 1 / (1.02 - accuracy) - 1 / 1.02


DISTURBANCES: dict[str, dict[str, Callable[[Tensor], Tensor] | None]] = {
    "none": {},
    "mixed": {
        "chart_figure_qa": _times(100.0),
        "general_vqa_science_stem": _times(0.01),
        "ocr": _heavy,
        "math_reasoning": None,
    },
    "scaled": {"chart_figure_qa": _times(100.0)},
    "heavy": {"ocr": _heavy},
    "flipped": {"math_reasoning": None},
}
"""Change to the accuracy of a task, by name of the disturbance; None inverts it in some groups."""


def disturb(batch: ScoredBatch, disturbance: str) -> ScoredBatch:
    """Disturb the accuracy of some tasks, and the total accordingly.

    The rewards of the batch alone determine which groups are inverted, so a resumed run repeats it.

    Args:
        batch: the scored completions of a rollout.
        disturbance: a key of `DISTURBANCES`.
    """
    accuracy = batch.components["accuracy"].double().clone()
    for task, change in DISTURBANCES[disturbance].items():
        rows = batch.task_ids == TASKS.index(task)
        if change is not None:
            accuracy[rows] = change(accuracy[rows])
        else:
            digest = hashlib.sha256(batch.rewards.double().numpy().tobytes()).digest()
            chance = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            draws = torch.rand(int(batch.group_ids.max()) + 1, generator=chance)
            rows = rows & (draws[batch.group_ids] < FLIPPED)
            accuracy[rows] = 1 - accuracy[rows]
    total = batch.rewards.double() + ACCURACY_WEIGHT * (accuracy - batch.components["accuracy"].double())
    return replace(batch, rewards=total, components=batch.components | {"accuracy": accuracy})


class Disturbed(Objective):
    """Disturb the rewards, and leave the rest to the objective class.

    Args:
        disturbance: a key of `DISTURBANCES`.
        kwargs: arguments of the objective.
    """

    def __init__(self, *, disturbance: str = "none", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.disturbance = disturbance

    def advantages(self, batch: ScoredBatch) -> Tensor:
        """Compute the objective's advantages of the disturbed rewards, ``[N]``."""
        return super().advantages(disturb(batch, self.disturbance)).to(batch.rewards.dtype)


class GRPO(Disturbed, objectives.GRPO):
    """GRPO on disturbed rewards."""


class DrGRPO(Disturbed, objectives.DrGRPO):
    """Dr. GRPO on disturbed rewards."""


class GDPO(Disturbed, objectives.GDPO):
    """GDPO on disturbed rewards."""


class EmaGRPO(Disturbed, objectives.EmaGRPO):
    """EMA-GRPO on disturbed rewards."""


class RLOO(Disturbed, objectives.RLOO):
    """RLOO on disturbed rewards."""


class GOPO(Disturbed, objectives.GOPO):
    """GOPO on disturbed rewards."""


class G2RPO(Disturbed, objectives.G2RPO):
    """G2RPO on disturbed rewards."""


class GaussianGDPO(Disturbed, objectives.GaussianGDPO):
    """GS-GDPO on disturbed rewards."""
