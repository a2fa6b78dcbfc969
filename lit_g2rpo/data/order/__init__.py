"""Which prompts a rollout gets."""
