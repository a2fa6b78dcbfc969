"""Every recipe composes with every strategy."""

import pytest
import yaml
from helpers.composed import compose
from helpers.paths import CONFIGS

from lit_g2rpo import callbacks

RECIPES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
STRATEGIES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("strategy/*.yaml"))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_every_strategy(recipe: str, strategy: str) -> None:
    config = compose("--config", f"@{recipe}", "--trainer", f"@{strategy}")
    fragment = yaml.safe_load((CONFIGS / strategy).read_text())
    strategy_given = fragment.pop("strategy", None)
    assert {key: config.trainer[key] for key in fragment} == fragment
    if isinstance(strategy_given, dict):
        assert config.trainer.strategy.class_path == strategy_given["class_path"]
        arguments = strategy_given.get("init_args", {})
        assert {key: config.trainer.strategy.init_args[key] for key in arguments} == arguments
    elif strategy_given is not None:
        assert config.trainer.strategy == strategy_given
    names = [callback.class_path.removeprefix("lit_g2rpo.callbacks.") for callback in config.trainer.callbacks]
    assert sorted(names) == sorted(callbacks.__all__)
