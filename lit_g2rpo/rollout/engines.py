"""Engines by name."""

from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.demonstrations import DemonstrationEngine
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine


def build_engine(config: RolloutConfig) -> RolloutEngine:
    """Build the engine that training samples with.

    Args:
        config: settings of rollout.

    Returns:
        The engine, not yet attached to a policy.
    """
    return DemonstrationEngine() if config.engine == "demonstrations" else build_sampler(config)


def build_sampler(config: RolloutConfig) -> RolloutEngine:
    """Build an engine that samples, which evaluation needs also where training reads demonstrations.

    Args:
        config: settings of rollout.

    Returns:
        The engine, not yet attached to a policy.
    """
    if config.engine == "huggingface":
        return HuggingFaceEngine(config.max_rows)
    return NativeEngine(config.max_rows, config.slots, config.prefill_mib)
