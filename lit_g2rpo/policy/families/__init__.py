"""Model families: one file per family locates the parts of its models."""
