"""The policy: the only part that knows about transformers."""
