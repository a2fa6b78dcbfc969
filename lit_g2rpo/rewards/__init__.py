"""Rewards: text in, score out; no model, no file, no network."""

from lit_g2rpo.rewards.compose import RewardResult, score
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.families import PROBLEM_TYPES

__all__ = ["PROBLEM_TYPES", "RewardConfig", "RewardResult", "score"]
