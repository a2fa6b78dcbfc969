"""What the configured strategy splits over ranks, determined from its class without building it."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding, sharding
from lit_g2rpo.registry import load


def sharding_of(strategy: Any, ranks: int) -> Sharding:
    """Determine what a strategy splits.

    Args:
        strategy: ``trainer.strategy`` as configured: a name, or class path and arguments.
        ranks: number of ranks in the run.

    Raises:
        UserError: if there is no such strategy, or it does not say what it splits.
    """
    kind, arguments = _resolve(strategy, ranks)
    found = sharding.dispatch(kind)(kind, ranks, arguments)
    if found is None:
        raise UserError(
            f"trainer.strategy {kind.__module__}.{kind.__qualname__} does not say what it splits over ranks with "
            "these arguments; register lit_g2rpo.hardware.hooks.sharding for it in its file, or plan with a fragment "
            "of configs/strategy that splits the same"
        )
    return found


def _resolve(strategy: Any, ranks: int) -> tuple[type, Mapping[str, Any]]:
    """Find the class and arguments of a configured strategy."""
    if not isinstance(strategy, str):
        return load(strategy["class_path"], "trainer.strategy"), dict(strategy.get("init_args") or {})
    if strategy == "auto":
        return SingleDeviceStrategy if ranks == 1 else DDPStrategy, {}
    if strategy not in StrategyRegistry:
        known = ", ".join(["auto", *StrategyRegistry.available_strategies()])
        raise UserError(f"trainer.strategy is {strategy!r}; known: {known}")
    entry = StrategyRegistry[strategy]
    return entry["strategy"], entry["init_params"]
