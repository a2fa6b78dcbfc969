"""The pre-flight check."""
