"""Readers: turn the text of an answer into a value."""
