"""Readers: from the text of an answer to a value."""
