"""What the module is made of: one rollout, its table, its micro-batches, checks and resume."""
