"""The command line of a sweep: the keys with several values, and the resulting runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lit_g2rpo.cli.line import PLACE
from lit_g2rpo.cli.words import pairs, take
from lit_g2rpo.errors import UserError

OUTPUT = "runs/sweep"
SEED = "seed_everything"
VARY = "--vary"
EXAMPLE = "--vary model.objective.clip_low 0.1 0.2"
LONGEST_NAME = 200
"""Maximum length of a run's name, characters; file systems allow a little more."""


@dataclass(slots=True, frozen=True)
class Varied:
    """A key with several values.

    Args:
        key: the dotted key.
        values: its values, as given on the command line.
    """

    key: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if PLACE.fullmatch(f"--{self.key}"):
            raise UserError(f"{VARY} {self.key}: it sets the folder of a run; --output FOLDER sets it for all of them")
        if self.key in ("ckpt_path", "run"):
            raise UserError(f"{VARY} {self.key}: the runs of a sweep are new; vary a key of the recipe")
        if not self.values:
            raise UserError(f"{VARY} {self.key} has no values; give them after the key: {EXAMPLE}")
        if twice := next((value for value in self.values if self.values.count(value) > 1), None):
            raise UserError(f"{VARY} {self.key} has {twice} twice; give each value once")
        shorts = [short_value(value) for value in self.values]
        if alike := [value for value, short in zip(self.values, shorts, strict=True) if shorts.count(short) > 1]:
            raise UserError(
                f"{VARY} {self.key}: the runs of {' and '.join(alike)} would have one name; give files of other names"
            )


@dataclass(slots=True, frozen=True)
class Cell:
    """A combination of values, with one run per seed.

    Args:
        name: name that distinguishes it from the others; empty if only seeds vary.
        values: its value of each varied key, in order.
        words: the command line of `fit` without a seed.
    """

    name: str
    values: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Grid:
    """The contents of a sweep's command line.

    Args:
        varied: keys with several values.
        seeds: seeds of each combination; empty to use the recipe's seed.
        parallel: number of runs at a time.
        output: folder of the runs.
        cells: the combinations; the last key varies fastest.
    """

    varied: tuple[Varied, ...]
    seeds: tuple[int, ...]
    parallel: int
    output: Path
    cells: tuple[Cell, ...]

    def name(self, cell: Cell, seed: int | None) -> str:
        """Return the name of a run, which is also the name of its folder."""
        return ",".join(filter(None, [cell.name, "" if seed is None else f"seed={seed}"]))


def read_grid(words: Sequence[str]) -> Grid:
    """Read the words after ``sweep``.

    Raises:
        UserError: if they do not describe runs.
    """
    for key, _ in pairs(list(words)):
        if PLACE.fullmatch(key):
            raise UserError(
                f"{key} sets the folder of a run; the runs of a sweep are in --output FOLDER (default: {OUTPUT})"
            )
        if key == "--ckpt_path":
            raise UserError("--ckpt_path: the runs of a sweep are new; interrupted ones resume by themselves")
    seeds, rest = _count("--seeds", list(words), "seeds")
    parallel, rest = _count("--parallel", rest, "runs at a time")
    output, rest = take("--output", rest)
    parts, varied = _parts(rest)
    _check_keys(varied, rest, bool(seeds))
    return Grid(
        tuple(varied),
        tuple(range(seeds or 0)),
        parallel or 1,
        Path(output or OUTPUT),
        tuple(_cell(parts, varied, values) for values in product(*(one.values for one in varied))),
    )


def _count(key: str, words: list[str], what: str) -> tuple[int | None, list[str]]:
    text, rest = take(key, words)
    if text is None:
        return None, rest
    if not text.isdecimal() or not int(text):
        raise UserError(f"{key} is {text}; give the number of {what}, 1 or more")
    return int(text), rest


def _parts(words: list[str]) -> tuple[list[str | int], list[Varied]]:
    """Split the words into those of every run and, as indices, the positions of the varied keys."""
    parts: list[str | int] = []
    varied: list[Varied] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith(f"{VARY}="):
            raise UserError(f"{word}: give the key and its values as words: {EXAMPLE}")
        if word != VARY:
            parts.append(word)
            continue
        given = []
        while rest and not rest[0].startswith("--"):
            given.append(rest.pop(0))
        if not given:
            raise UserError(f"{VARY} has no key; give one and its values: {EXAMPLE}")
        parts.append(len(varied))
        varied.append(Varied(given[0], tuple(given[1:])))
    return parts, varied


def _check_keys(varied: list[Varied], words: list[str], seeded: bool) -> None:
    if not varied and not seeded:
        raise UserError(f"sweep: nothing varies; give --seeds N, {VARY} KEY VALUE VALUE ..., or both")
    keys = [plain(one.key) for one in varied]
    if twice := next((one.key for one, key in zip(varied, keys, strict=True) if keys.count(key) > 1), None):
        raise UserError(f"{VARY} {twice} is given twice; put all its values after one {VARY}")
    if seeded and SEED in keys:
        raise UserError(f"--seeds N stands for {VARY} {SEED} 0 1 ...; give one of them")
    given = {plain(key.removeprefix("--")) for key, _ in pairs(words)}
    if both := next((one.key for one, key in zip(varied, keys, strict=True) if key in given), None):
        raise UserError(f"--{both} is both given and varied; remove one of the two")
    if seeded and SEED in given:
        raise UserError(f"--{SEED} is given, and --seeds N has others; leave one of them out")


def _cell(parts: list[str | int], varied: list[Varied], values: tuple[str, ...]) -> Cell:
    words: list[str] = []
    for part in parts:
        words += [part] if isinstance(part, str) else [f"--{varied[part].key}", values[part]]
    keys = short_keys([plain(one.key) for one in varied])
    name = ",".join(f"{key}={short_value(value)}" for key, value in zip(keys, values, strict=True))
    if len(name) > LONGEST_NAME:
        raise UserError(f"{VARY}: {name[:60]}... is too long for the name of a run; put long values into a file")
    return Cell(name, values, tuple(words))


def plain(key: str) -> str:
    """Remove the parts of a key that a command line may omit."""
    return key.replace(".init_args.", ".").removesuffix(".class_path")


def short_keys(keys: list[str]) -> list[str]:
    """Shorten keys to the fewest last parts that are distinct; the seed is named ``seed``."""
    found = []
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        end = next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)
        found.append("seed" if key == SEED else end)
    return found


def short_value(value: str) -> str:
    """Format a value as part of a file name: a config file by its own name, a class by its last part."""
    if value.endswith((".yaml", ".yml")):
        value = Path(value).stem
    elif re.fullmatch(r"[a-zA-Z_]\w*(\.[a-zA-Z_]\w*)+", value):
        value = value.rpartition(".")[2]
    return re.sub(r"[^\w.+-]+", "_", value)
