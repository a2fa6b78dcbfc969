"""The recipes and fragments, and command lines that are parsed but not run."""

from typing import Any

from helpers.paths import CONFIGS
from lit_g2rpo.callbacks import default_callbacks
from lit_g2rpo.cli.trainer import TrainerCLI

RECIPES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
FRAGMENTS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*.yaml"))
KEYS = {
    "model": "model.policy",
    "objective": "model.objective",
    "rollout": "model.rollout",
    "optimizer": "model.optimizer",
    "data": "data",
    "trainer": "trainer",
    "strategy": "trainer",
    "logger": "trainer.logger",
}
RECIPE_CALLBACKS = [type(callback).__name__ for callback in default_callbacks()[1:]]
"""The default callbacks without the first, RunFolder, which the command line adds itself."""


class Composed(TrainerCLI):
    """Parse without building anything."""

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def after_instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def compose(*words: str, verb: str = "fit") -> Any:
    """Return the config of a command line; ``@name`` is a file in ``configs``."""
    return Composed(verb, [str(CONFIGS / word.removeprefix("@")) if word[0] == "@" else word for word in words]).config[
        verb
    ]
