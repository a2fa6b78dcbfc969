"""Rewards: text in, score out, without a model, files or the network."""

from lit_g2rpo.rewards.compose import RewardResult, score
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.problem_type import ProblemType, compared
from lit_g2rpo.rewards.problem_types import PROBLEM_TYPES, problem_type_id, problem_type_named, problem_type_of_id

__all__ = [
    "PROBLEM_TYPES",
    "ProblemType",
    "RewardConfig",
    "RewardResult",
    "compared",
    "problem_type_id",
    "problem_type_named",
    "problem_type_of_id",
    "score",
]
