"""Rollouts by vLLM; nothing outside this folder imports it, and nothing here does before an engine starts."""
