"""Engines by short name or import path."""

import inspect
from dataclasses import fields

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import arguments, build, lookup
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.demonstrations import DemonstrationEngine
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine

ENGINES: dict[str, type[RolloutEngine] | str] = {
    "native": NativeEngine,
    "huggingface": HuggingFaceEngine,
    "demonstrations": DemonstrationEngine,
    "vllm": "lit_g2rpo.rollout.vllm.engine.VllmEngine",
    "vllm_server": "lit_g2rpo.rollout.vllm.server.engine.VllmServerEngine",
}


def build_engine(config: RolloutConfig) -> RolloutEngine:
    """Build the engine that samples for training, not yet attached to a policy.

    Raises:
        UserError: if there is no such engine, or an option is missing or unknown.
    """
    where = "model.rollout.engine"
    kind = lookup(config.engine, ENGINES, where)
    if not (isinstance(kind, type) and issubclass(kind, RolloutEngine)):
        raise UserError(f"{where} is {config.engine!r}, which is no class of rollout.engine.RolloutEngine")
    keys = {field.name: getattr(config, field.name) for field in fields(config)}
    parameters = inspect.signature(kind).parameters.values()
    given = arguments(parameters, keys, config.engine_options, f"{where}_options")
    return build(kind, config.engine, where, **given)


def build_sampler(engine: RolloutEngine, config: RolloutConfig) -> RolloutEngine:
    """Return the engine, which may hold a copy of the weights, or one that samples if its completions are given."""
    return engine if engine.samples else NativeEngine(config.max_rows, config.slots, config.prefill_mib)
