"""Every fragment composes with the default recipe, and every recipe with every strategy: a hundred parses."""

import pytest
import yaml
from helpers.composed import FRAGMENTS, KEYS, RECIPE_CALLBACKS, RECIPES, compose
from helpers.paths import CONFIGS


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_works_on_the_command_line(name: str) -> None:
    if name == "optimizer/eight_bit.yaml":
        pytest.importorskip("bitsandbytes")
    sizes = ["--model.update.microbatches", "64"]
    config = compose("--config", "@g2rpo.yaml", f"--{KEYS[name.split('/')[0]]}", f"@{name}", *sizes)
    assert config.trainer.max_steps > 0


@pytest.mark.parametrize("strategy", [name for name in FRAGMENTS if name.startswith("strategy/")])
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
    assert sorted(names) == sorted(RECIPE_CALLBACKS)
