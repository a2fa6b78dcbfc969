"""Files of rows: reading, checks, conversion and caching."""
