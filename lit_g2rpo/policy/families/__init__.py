"""Model families: one file for each says where the parts of its models are."""
