"""Objectives: rewards to advantages, and the loss of a token. Pure functions of tensors, and one class per method."""

from lit_g2rpo.objectives.g2rpo import G2RPO
from lit_g2rpo.objectives.gdpo import GDPO
from lit_g2rpo.objectives.grpo import GRPO
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.objectives.supervised import Supervised

__all__ = ["G2RPO", "GDPO", "GRPO", "EntropyBand", "LengthBand", "Objective", "Supervised"]
