"""Scoring of whole rollouts: threads, processes, custom rewards, judges."""
