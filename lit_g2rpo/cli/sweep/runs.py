"""The runs of a sweep: they are composed, tried and compared with the folder's contents before the first one starts."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from lit_g2rpo.cli.changes import Change, find_changes, resolved
from lit_g2rpo.cli.checkpoints import newest_checkpoints, read_state
from lit_g2rpo.cli.fragments import check_files
from lit_g2rpo.cli.place import Place
from lit_g2rpo.cli.sweep.grid import SEED, Cell, Grid, plain
from lit_g2rpo.cli.trainer import TrainerCLI, unwrapped
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable
from lit_g2rpo.training.records import records

RECIPES, LOGS = "recipes", "logs"
"""Folders next to the runs: the recipe that each starts with, and its output."""
PLACES = ("trainer.logger.", "trainer.default_root_dir")


@dataclass(slots=True, frozen=True)
class SweepRun:
    """A run of a sweep.

    Args:
        name: its name.
        folder: its folder.
        values: its value of each varied key.
        seed: its seed.
        recipe: the recipe that it starts with.
    """

    name: str
    folder: Path
    values: tuple[str, ...]
    seed: int
    recipe: dict[str, Any]

    @property
    def rollouts(self) -> int:
        """Number of rollouts in the whole run."""
        return int(self.recipe["schedule"]["rollouts"])

    @property
    def recipe_file(self) -> Path:
        """Path of its recipe."""
        return self.folder.parent / RECIPES / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Path of its output."""
        return self.folder.parent / LOGS / f"{self.name}.log"

    def done(self) -> int | None:
        """Read the number of rollouts in its newest checkpoint; None if there is none."""
        if not (found := newest_checkpoints(self.folder)):
            return None
        try:
            state = read_state(found[0])["g2rpo"]
        except UserError:
            # a broken checkpoint, on which the run reports more when it resumes from the previous one
            return 0
        # a partially trained rollout is not done
        return int(state["rollout_index"]) - ("experience" in state)

    def finished(self) -> bool:
        """Return whether nothing is left to do."""
        return (self.done() or 0) >= self.rollouts


class Trial(TrainerCLI):
    """Build the parts of a run to check its config, without running it.

    Args:
        words: the command line of ``fit``.
        folder: the folder of the run.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.folder = folder
        super().__init__("fit", words)

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        Place(self.settings.trainer).lie_in(self.folder)

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        place = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        if place.absolute() != self.folder.absolute():
            raise UserError(
                f"trainer.logger: the files of a run would lie in {place}, and a sweep gives each run a folder; give "
                "one of configs/logger first, or false"
            )

    def check_data(self) -> None:
        """Read the data like the run will."""
        self.trainer.strategy.connect(self.model)
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")


def compose(grid: Grid) -> list[SweepRun]:
    """Compose the runs of a sweep.

    Raises:
        UserError: if one of them cannot start, or two are the same.
    """
    runs: list[SweepRun] = []
    read: list[Any] = []
    cells: dict[str, Cell] = {}
    for cell in grid.cells:
        check_files(list(cell.words))
        trial = _tried(cell, grid)
        recipe = trial.save_config_kwargs["recipe"]
        other = cells.setdefault(_content(recipe), cell)
        if other is not cell:
            raise UserError(f"{other.name} and {cell.name} are the same run; leave out one of the values")
        data = [recipe["data"], recipe["model"]["reward"]]
        if data not in read:
            trial.check_data()
            read.append(data)
        runs += _with_seeds(cell, grid, recipe)
    return runs


def _tried(cell: Cell, grid: Grid) -> Trial:
    try:
        return Trial(list(cell.words), grid.output / cell.name)
    except ValueError as error:
        raise unwrapped(error) from error


def _with_seeds(cell: Cell, grid: Grid, recipe: dict[str, Any]) -> Iterator[SweepRun]:
    for seed in grid.seeds or (None,):
        name = grid.name(cell, seed)
        own = deepcopy(recipe) | ({} if seed is None else {SEED: seed})
        Place(own["trainer"]).lie_in(grid.output / name)
        yield SweepRun(name, grid.output / name, cell.values, own[SEED], own)


def check_output(output: Path) -> None:
    """Refuse a folder that cannot be written, or contains anything but a sweep.

    Raises:
        UserError: if it is such a folder.
    """
    if output.exists() and not (output / RECIPES).is_dir() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not the folder of a sweep; give a new folder")
    check_writable(output / RECIPES)


def check_recipes(grid: Grid, runs: list[SweepRun]) -> None:
    """Refuse a folder with a sweep of another recipe.

    Raises:
        UserError: if the folder contains one.
    """
    own = grid.output / RECIPES
    varied = [plain(one.key) for one in grid.varied] + [SEED]
    by_name = {run.name: run for run in runs}
    for path in sorted(own.glob("*.yaml")):
        try:
            was = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            was = None
        if not isinstance(was, dict):
            raise UserError(f"{path} is not a recipe; remove it, or give another --output")
        run = by_name.get(path.stem)
        free = [] if run else varied
        for change in _differences(was, (run or runs[0]).recipe):
            if "config" not in free and not any(f"{plain(change.key)}.".startswith(f"{key}.") for key in free):
                raise UserError(
                    f"--output {grid.output} contains a sweep of another recipe: {change.key} is {change.was} in "
                    f"{path.name} and {change.now} here; give another --output"
                )


def _content(recipe: dict[str, Any]) -> str:
    """Return a resolved recipe as text, without the paths of its files."""
    content = resolved(recipe)
    content.pop("name", None)
    content["trainer"] = {
        key: value for key, value in content["trainer"].items() if key not in ("logger", "default_root_dir")
    }
    return json.dumps(content, sort_keys=True, default=str)


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Find the differences between two recipes, without paths of files and derived keys."""
    changes = find_changes(was, now)
    return [
        change
        for change in changes
        if not change.key.startswith(PLACES) and not change.follows and change.key != "name"
    ]


def command(run: SweepRun) -> list[str]:
    """Return the words that start a run, or resume it if it has a checkpoint."""
    if run.done() is not None and records(run.folder):
        return ["fit", "--run", str(run.folder)]
    return ["fit", "--config", str(run.recipe_file)]
