"""The pieces that the module is built from: one rollout, its table, its micro-batches, checks and resume."""
