"""Conversion of data rows from every accepted format to one shape."""
