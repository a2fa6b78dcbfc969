"""Rewards: text in, score out; no model, no file, no network."""

from lit_g2rpo.rewards.compose import PROBLEM_TYPES, RewardResult, score

__all__ = ["PROBLEM_TYPES", "RewardResult", "score"]
