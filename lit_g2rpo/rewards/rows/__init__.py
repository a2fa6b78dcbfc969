"""Data rows of every accepted format, in one shape."""
