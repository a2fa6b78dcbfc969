"""Engines by name."""

from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.demonstrations import DemonstrationEngine
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine


def build_engine(config: RolloutConfig) -> RolloutEngine:
    """Build the engine that training samples with.

    Args:
        config: settings of rollout.

    Returns:
        The engine, not yet attached to a policy.
    """
    if config.engine == "demonstrations":
        return DemonstrationEngine()
    return HuggingFaceEngine(max_rows=config.max_rows)
