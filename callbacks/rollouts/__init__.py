"""Rollouts on disk, in the loggers and as a page."""
