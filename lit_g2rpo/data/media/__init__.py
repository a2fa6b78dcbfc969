"""Images and videos of a row."""
