"""Rollout engines, which sample completions from a policy."""
