"""Rollouts on disk, in TensorBoard and as a page."""
