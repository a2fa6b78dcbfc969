"""Estimates of the memory that a run needs, without its weights."""
