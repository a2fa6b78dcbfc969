"""A run's config as a recipe, which keeps references, so that overrides affect the keys that depend on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lit_g2rpo.cli.changes import resolved
from lit_g2rpo.files import write_text
from lit_g2rpo.loggers import RunLogger
from lit_g2rpo.training.records import add_record

SECTIONS = ("name", "seed_everything", "schedule", "checkpoint", "model", "data", "trainer")
"""Sections of a recipe; the keys that verbs add, such as ``ckpt_path``, are not part of it."""
DERIVED = ("trainer.max_steps", "trainer.val_check_interval", "trainer.log_every_n_steps", "model.rollout.seed")
"""Keys that are derived from others when a recipe is read."""


def recipe_of(config: dict[str, Any]) -> dict[str, Any]:
    """Reduce a composed config, which is modified, to a recipe."""
    for key in DERIVED:
        *path, last = key.split(".")
        place: Any = config
        for part in path:
            place = place.get(part) or {}
        place.pop(last, None)
    return {section: config[section] for section in SECTIONS if section in config}


class RecipeCallback(SaveConfigCallback):
    """Save the recipe of a run in its folder, its checkpoints and its loggers.

    ``fit`` adds a record to the existing ones, but only after a resumed run has loaded its checkpoint; other verbs
    replace their own record.

    Args:
        parser: Lightning's argument; not used.
        config: Lightning's argument; not used.
        recipe: the recipe.
        verb: the current verb.
        rollout: rollouts done when the run was resumed; None if it is new.
        lines: differences from its checkpoint, printed once that is loaded.
    """

    def __init__(
        self,
        parser: Any,
        config: Any,
        *,
        recipe: dict[str, Any],
        verb: str,
        rollout: int | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.recipe, self.verb, self.rollout, self.lines = recipe, verb, rollout, lines

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.rollout is None:
            self._record(trainer)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.rollout is not None:
            self._record(trainer)

    @override
    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for line in self.lines:
            print(line, flush=True)

    def _record(self, trainer: L.Trainer) -> None:
        # finding the folder is collective, so all ranks must call this
        folder = trainer.log_dir
        if folder is not None and trainer.is_global_zero:
            text = yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)
            if self.verb == "fit":
                add_record(Path(folder), "config.yaml", self.rollout or 0, text)
            else:
                write_text(Path(folder) / f"{self.verb}.yaml", text)
            for logger in trainer.loggers if self.verb == "fit" else []:
                logger.log_hyperparams(resolved(self.recipe))
                if isinstance(logger, RunLogger):
                    logger.show_text("run/config", f"```yaml\n{text}\n```", self.rollout or 0)

    @override
    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Do nothing."""

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.recipe
