"""Run folders from the words of a command line: folders, patterns, and names of experiments."""

import difflib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lit_g2rpo.errors import UserError
from lit_g2rpo.training.curve_file import CURVES
from lit_g2rpo.training.records import records

EXPERIMENTS = Path("runs")
"""Folder to look up a bare name in."""


def find_runs(words: Sequence[str]) -> tuple[list[Path], int]:
    """Find runs.

    Args:
        words: each a run's folder, a folder with runs at any depth, a pattern for such folders, or the name of an
            experiment in `EXPERIMENTS`.

    Returns:
        Folders in the order of the words, without duplicates, and the number of duplicates.

    Raises:
        UserError: if a word does not match any run.
    """
    found: dict[Path, Path] = {}
    again = 0
    for word in words:
        for folder in _meant(word):
            again += folder.resolve() in found
            found.setdefault(folder.resolve(), folder)
    return list(found.values()), again


def _meant(word: str) -> list[Path]:
    there = False
    for place in (Path(word).expanduser(), EXPERIMENTS / word):
        literal = place.exists() or not glob.has_magic(word)
        paths = [place] if literal else [Path(match) for match in glob.glob(str(place), recursive=True)]
        folders = [folder for path in sorted(paths, key=_natural) for folder in _runs_in(path)]
        if folders:
            return folders
        there = there or any(path.exists() for path in paths)
    if there:
        raise UserError(f"{word}: no run lies there; a run is a folder with {CURVES} and config.yaml")
    if glob.has_magic(word):
        raise UserError(
            f"{word}: no folder matches, neither here nor in {EXPERIMENTS}; give a pattern such as 'g2rpo*'"
        )
    known = sorted(path.name for path in EXPERIMENTS.glob("*") if path.is_dir())
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"{EXPERIMENTS} holds {', '.join(known) or 'none'}"
    raise UserError(f"{word}: neither a folder nor the name of an experiment; {hint}")


def _runs_in(folder: Path) -> Iterator[Path]:
    """Yield a folder if it is a run's, otherwise the run folders below it."""
    for path, below, files in os.walk(folder):
        if CURVES in files or ("config.yaml" in files and records(Path(path))):
            yield Path(path)
            below.clear()
        below[:] = sorted((name for name in below if not name.startswith(".")), key=lambda name: _natural(Path(name)))


def _natural(path: Path) -> list[str | int]:
    """Order ``version_2`` before ``version_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
