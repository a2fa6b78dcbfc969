"""Checks of the files on a command line: they exist, and fragments fill the key that their first line names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_g2rpo.cli.meant import missing_file
from lit_g2rpo.cli.packaged import YAML, located, shipped_instead
from lit_g2rpo.cli.words import pairs
from lit_g2rpo.cli.yaml_file import read_yaml
from lit_g2rpo.errors import UserError

PARTS = ("policy", "objective", "optimizer", "lr_scheduler", "rollout", "update", "evaluation", "reward", "judge")
FILLED = {"data", "trainer", "trainer.logger", "model", "schedule", "checkpoint", *(f"model.{part}" for part in PARTS)}
"""Keys that can be filled from a file."""


def check_files(words: list[str]) -> None:
    """Refuse files that are missing or under the wrong key, both on the command line and in its recipes.

    Raises:
        UserError: for the first such file.
    """
    for option, value in pairs(words):
        key = option.removeprefix("--")
        if value is None:
            if key == "config":
                raise UserError("--config has no value; give a recipe, such as configs/g2rpo.yaml")
            continue
        if key == "config" and not set(value) & set("{\n"):
            path = Path(located(value))
            if not path.exists():
                raise UserError(f"--config: no such file: {value}{shipped_instead(value) or missing_file(path)}")
            if path.is_dir():
                run = f"; for the folder of a run give --run {value}" if (path / "config.yaml").exists() else ""
                raise UserError(f"--config: {value} is not a file{run}")
            _check_fills("config", "--config ", value, path)
            for inner, name in _named_files(value, path):
                _check(inner, f"{value}: {inner}: ", name, path.parent / located(name))
        elif key in FILLED:
            _check(key, f"--{key} ", value, Path(located(value)))


def _check(key: str, where: str, value: str, path: Path) -> None:
    if path.suffix in YAML:
        if not path.exists():
            hint = shipped_instead(value) or missing_file(path)
            raise UserError(f"{where.rstrip(' :')}: no such file: {value}{hint}".removeprefix("--"))
        _check_fills(key, where, value, path)
        read_yaml(f"{where}{value}", path)
    elif key == "data" and path.is_file() and _holds_rows(path):
        raise UserError(
            f"{where}{value} is a file of rows; data takes a config file or a class: --data configs/data/files.yaml "
            f"--data.train {value}"
        )
    elif key == "model.policy" and path.is_dir():
        raise UserError(f"{where}{value} is a folder; give a file of configs/model, or --model.policy.path {value}")


def _check_fills(key: str, where: str, value: str, path: Path) -> None:
    filled = _filled_key(path)
    if filled is not None and filled != key:
        raise UserError(f"{where}{value}: this file fills {filled}; give it there: --{filled} {value}")


def _filled_key(path: Path) -> str | None:
    """Read the key in a fragment's first line; None for any other file."""
    try:
        with path.open(encoding="utf-8") as file:
            found = re.match(r"#\s*fills ([\w.]+)", file.readline())
    except (OSError, UnicodeDecodeError):
        return None
    return found[1].rstrip(".") if found else None


def _named_files(given: str, recipe: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys that a recipe fills with files.

    Args:
        given: the recipe as the command line names it.
        recipe: its path.

    Raises:
        UserError: if it is not YAML.
    """
    places: list[tuple[str, Any]] = [("", read_yaml(f"--config {given}", recipe))]
    for key, value in places:
        if isinstance(value, dict):
            places += [(f"{key}.{name}".lstrip("."), inner) for name, inner in value.items()]
        elif isinstance(value, str) and key in FILLED and "${" not in value:
            yield key, value


def _holds_rows(path: Path) -> bool:
    if path.suffix != ".json":
        return path.suffix not in YAML
    try:
        return not isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (ValueError, OSError):
        return True
