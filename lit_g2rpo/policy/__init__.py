"""The policy: the only place that knows transformers."""
