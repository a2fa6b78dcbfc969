"""Rollouts by vLLM servers, over HTTP."""
