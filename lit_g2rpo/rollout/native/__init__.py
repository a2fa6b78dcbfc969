"""The native engine: prompts and images are read once, completions decoded together."""
