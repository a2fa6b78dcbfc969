"""Rollout engines: they sample completions from a policy."""
