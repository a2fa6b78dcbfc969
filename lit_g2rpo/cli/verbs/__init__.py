"""The project's own verbs, one per file."""
