"""Objectives: advantages from rewards, and the loss of a token, as pure tensor functions and one class per method."""

from lit_g2rpo.objectives.ema_grpo import EmaGRPO
from lit_g2rpo.objectives.g2rpo import G2RPO
from lit_g2rpo.objectives.gdpo import GDPO, GaussianGDPO
from lit_g2rpo.objectives.group_relative import GOPO, GRPO, RLOO, DrGRPO, ReinforcePP
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.objectives.supervised import Supervised

__all__ = [
    "G2RPO",
    "GDPO",
    "GOPO",
    "GRPO",
    "RLOO",
    "DrGRPO",
    "EmaGRPO",
    "EntropyBand",
    "GaussianGDPO",
    "LengthBand",
    "Objective",
    "ReinforcePP",
    "Supervised",
]
