"""Groups of runs that differ only in their seeds, and the keys in which groups differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lit_g2rpo.comparison.runs import Run, Seed

IGNORED = ("name", "seed_everything", "*.seed", "trainer.logger", "trainer.default_root_dir", "*.dirpath")
"""Keys that do not separate groups: seeds, and paths of a run's files."""
ABSENT = object()
"""The value of a key that a recipe does not have."""
NONE = "-"
"""How an absent key is shown."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs whose recipes are the same except for seeds.

    Args:
        number: number from 1, in the order of each group's first run.
        name: short name that distinguishes it from the other groups.
        runs: one run per seed.
        values: its value of each key that differs between groups, as text; `NONE` if it lacks the key.
    """

    number: int
    name: str
    runs: dict[Seed, Run]
    values: dict[str, str]


def form_groups(runs: Sequence[Run], ignore: Sequence[str] = ()) -> tuple[list[Group], list[str]]:
    """Group runs by the differences in their recipes.

    Args:
        runs: at least one run.
        ignore: patterns of other keys, or of their parents, that do not separate groups.

    Returns:
        The groups in the order of their first runs, and a line for each run that another with its seed replaces.
    """
    keys = differing_keys(runs, ignore)
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(_shown(_value(run, key)) for key in keys), []).append(run)
    readable = [_readable(key, column) for key, column in zip(keys, zip(*members, strict=True), strict=True)]
    values = [{key: column[place] for key, column in zip(keys, readable, strict=True)} for place in range(len(members))]
    names = _names(values, next(iter(members.values()))[0])
    groups, notes = [], []
    for number, (name, value, found) in enumerate(zip(names, values, members.values(), strict=True), 1):
        seeds: dict[Seed, Run] = {}
        for run in found:
            other = seeds.get(run.seed)
            kept = run if other is None or run.rollouts > other.rollouts else other
            if other is not None:
                gone = other if kept is run else run
                notes.append(
                    f"{gone.folder} is left out: {kept.folder} has the same recipe and seed "
                    f"{show_seed(run.seed)}, and no fewer rollouts"
                )
            seeds[run.seed] = kept
        groups.append(Group(number, name, dict(sorted(seeds.items(), key=lambda item: seed_order(item[0]))), value))
    return groups, notes


def differing_keys(runs: Sequence[Run], ignore: Sequence[str] = ()) -> list[str]:
    """List the keys whose values differ, in the order of the recipes.

    A reference to another key does not count as a difference by itself; it is resolved only if another run has a
    different value. Nor does an argument that some runs lack because of a different class, if the others agree on it.
    """
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for run in runs for key in run.recipe):
        if any(fnmatchcase(key, name) for pattern in (*IGNORED, *ignore) for name in (pattern, f"{pattern}.*")):
            continue
        raw = [run.recipe.get(key, ABSENT) for run in runs]
        if any(value != raw[0] for value in raw):
            found[key] = [_shown(_value(run, key)) for run in runs]
    found = {key: values for key, values in found.items() if len(set(values)) > 1}
    return [key for key, values in found.items() if not _follows_class(key, values, found)]


def _follows_class(key: str, values: Sequence[str], differing: Mapping[str, Sequence[str]]) -> bool:
    """Return whether an argument differs only because some runs have another class, without that argument."""
    classes = differing.get(f"{key.rpartition('.init_args.')[0]}.class_path", ())
    return len(set(values) - {NONE}) == 1 and len(set(zip(classes, values, strict=False))) == len(set(classes)) > 1


def show_seed(seed: Seed) -> str:
    """Format a seed for people."""
    return ", ".join(map(str, seed))


def seed_order(seed: Seed) -> tuple[bool, int, tuple[str, ...]]:
    """Order seeds as numbers, with non-numbers after them."""
    first = seed[0]
    return isinstance(first, str), first if isinstance(first, int) else 0, tuple(map(str, seed))


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys to the shortest distinct suffixes; a class is named by the key that holds it."""
    parts = {key: [part for part in key.split(".") if part not in ("init_args", "class_path")] for key in keys}
    found = {}
    for key, own in parts.items():
        for length in range(1, len(own) + 1):
            if sum(other[-length:] == own[-length:] for other in parts.values()) == 1:
                break
        found[key] = ".".join(own[-length:])
    return found


def _value(run: Run, key: str) -> Any:
    value = run.recipe.get(key, ABSENT)
    return run.resolved.get(key, value) if isinstance(value, str) and "${" in value else value


def _shown(value: Any) -> str:
    if value is ABSENT:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _readable(key: str, values: Sequence[str]) -> Sequence[str]:
    """Shorten import paths to the names of their classes, if these are distinct."""
    names = [value.rpartition(".")[2] for value in values]
    return names if key.endswith(".class_path") and len(set(names)) == len(set(values)) else values


def _names(values: Sequence[dict[str, str]], first: Run) -> list[str]:
    """Name each group by the fewest differing keys that distinguish it from the others, classes before other keys."""
    if len(values) == 1:
        return [str(first.recipe.get("name", first.folder.name))]
    keys = list(values[0])
    short = short_keys(keys)
    parts: list[tuple[str, ...]] = [() for _ in values]
    for key in sorted(keys, key=lambda key: not key.endswith(".class_path")):
        for name in [name for name in dict.fromkeys(parts) if parts.count(name) > 1]:
            alike = [index for index, part in enumerate(parts) if part == name]
            if len({values[index][key] for index in alike}) > 1:
                for index in alike:
                    parts[index] = (*name, _part(key, short[key], values[index][key]))
    return [", ".join(part) for part in parts]


def _part(key: str, short: str, value: str) -> str:
    if value == NONE:
        return f"no {short}"
    return value if key.endswith(".class_path") else f"{short}={value}"
