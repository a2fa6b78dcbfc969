"""Files of rows: read, checked, converted, cached."""
