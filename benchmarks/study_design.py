"""The design of `study`: settings, arms, phases and judged contrasts, fixed before the first run.

Every run is the default recipe with another objective, rate or setting. Its outcome is the mean validation accuracy
over the six tasks after the last rollout, greedy, with 120 rows per task. A seed determines prompts, their order and
sampling, so runs with the same seed are paired across arms. Each arm runs at its own best of `RATES` in each setting,
found after `SCREENING_ROLLOUTS` rollouts on `SCREENING_SEEDS`, which no judged run uses; the middle rate wins a tie.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLLOUTS = 150
RATES = (3e-5, 6e-5, 1.2e-4)
SCREENING_SEEDS = (100, 101)
SCREENING_ROLLOUTS = 75
SEEDS = tuple(range(10))
"""Seeds of the main contrasts. Earlier runs had paired differences with a standard deviation of about 0.012: ten seeds
then give an interval of +-0.009, and detect a difference of 0.012 with a power of 80 %."""
FEWER = SEEDS[:5]
"""Seeds of the other arms: an interval of +-0.015."""


@dataclass(frozen=True)
class Setting:
    """A setting in which arms run.

    Args:
        disturbance: change to rewards before the objective sees them, see `study_objectives`.
        quotas: groups of each task in a rollout of 18; None for 3 each.
    """

    disturbance: str = "none"
    quotas: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Arm:
    """An objective with its arguments."""

    objective: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


SETTINGS = {
    # the embedded tasks as they are
    "default": Setting(),
    # other reward scales (x 100, x 0.01), a heavy tail, 10 % of a task's groups inverted, unequal shares
    "mixed": Setting(
        "mixed",
        {
            "spatial_grounding": 5,
            "spatial_reasoning": 4,
            "general_vqa_science_stem": 3,
            "math_reasoning": 2,
            "chart_figure_qa": 2,
            "ocr": 2,
        },
    ),
    # one disturbance at a time
    "scaled": Setting("scaled"),
    "heavy": Setting("heavy"),
    "flipped": Setting("flipped"),
}

LENGTH, ENTROPY = {"length_weight": 0.1}, {"entropy_coefficient": 0.02}
ARMS = {
    "grpo": Arm("GRPO"),
    "dr_grpo": Arm("DrGRPO"),
    "gdpo": Arm("GDPO"),
    "ema_grpo": Arm("EmaGRPO"),
    "g2rpo": Arm("G2RPO", {"scope": "group_then_task"}),
    "rloo": Arm("RLOO"),
    "gopo": Arm("GOPO"),
    "g2rpo_group": Arm("G2RPO", {"scope": "group"}),
    "g2rpo_task": Arm("G2RPO", {"scope": "task"}),
    "g2rpo_unit_rms": Arm("G2RPO", {"scope": "group_unit_rms"}),
    "gs_gdpo": Arm("GaussianGDPO"),
    # with shaping
    "g2rpo+length": Arm("G2RPO", LENGTH),
    "g2rpo+entropy": Arm("G2RPO", ENTROPY),
    "g2rpo+both": Arm("G2RPO", LENGTH | ENTROPY),
    "g2rpo+both,sampled": Arm("G2RPO", LENGTH | ENTROPY | {"entropy": "sampled"}),
    "g2rpo+both,gated": Arm("G2RPO", LENGTH | ENTROPY | {"length_needs_accuracy": True}),
    "grpo+both": Arm("GRPO", LENGTH | ENTROPY),
}
MAIN = ("grpo", "dr_grpo", "gdpo", "ema_grpo", "g2rpo")
OTHERS = ("rloo", "gopo", "g2rpo_group", "g2rpo_task", "g2rpo_unit_rms", "gs_gdpo")
SHAPED = ("g2rpo+length", "g2rpo+entropy", "g2rpo+both,sampled", "g2rpo+both,gated", "grpo+both")


@dataclass(frozen=True)
class Phase:
    """The runs of every arm on every seed in one setting, in the order of the seeds.

    Args:
        setting: a key of `SETTINGS`.
        rates_of: the setting whose screening gives each arm its rate; None for a screening itself.
        rate: the rate of every arm in place of its own, for runs that were added after the first results.
    """

    setting: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    rates_of: str | None
    rate: float | None = None


PHASES = {
    "screening": Phase("default", MAIN, SCREENING_SEEDS, None),
    "main": Phase("default", (*MAIN, "g2rpo+both"), SEEDS, "default"),
    # added after the first 14 main runs: the screening gave G2RPO twice the rate of the default recipe
    "added: the default rate": Phase("default", ("g2rpo", "g2rpo+both"), SEEDS, "default", 6e-5),
    "screening, mixed": Phase("mixed", MAIN, SCREENING_SEEDS, None),
    "main, mixed": Phase("mixed", MAIN, SEEDS, "mixed"),
    "screening of others": Phase("default", OTHERS, SCREENING_SEEDS, None),
    "others": Phase("default", OTHERS, FEWER, "default"),
    "shaping": Phase("default", SHAPED, FEWER, "default"),
    "screening of others, mixed": Phase("mixed", OTHERS, SCREENING_SEEDS, None),
    "others, mixed": Phase("mixed", OTHERS, FEWER, "mixed"),
    "scaled": Phase("scaled", MAIN, FEWER, "default"),
    "heavy": Phase("heavy", MAIN, FEWER, "default"),
    "flipped": Phase("flipped", MAIN, FEWER, "default"),
}
"""In the order in which they run."""

CONTRASTS = (
    ("default", "g2rpo", "grpo"),
    ("default", "g2rpo", "ema_grpo"),
    ("default", "g2rpo", "gdpo"),
    ("default", "g2rpo", "dr_grpo"),
    ("default", "g2rpo+both", "g2rpo"),
    ("mixed", "g2rpo", "grpo"),
    ("mixed", "g2rpo", "ema_grpo"),
    ("mixed", "g2rpo", "gdpo"),
    ("mixed", "g2rpo", "dr_grpo"),
)
"""Judged contrasts: setting, arm, and the arm it is compared with, paired by seed. The p-values of these nine are from
exact permutation tests, held to 0.05 by Holm's procedure; all other comparisons are described, not judged."""


def base_arm(arm: str) -> str:
    """Return the arm without shaping, whose rate an arm uses."""
    return arm.split("+")[0]
