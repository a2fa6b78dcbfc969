"""Problem types by name: the built-in ones by short name, others by import path."""

import zlib
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import instance
from lit_g2rpo.rewards.built_in_types import BUILT_IN
from lit_g2rpo.rewards.problem_type import ProblemType

PROBLEM_TYPES = tuple(BUILT_IN)
FIRST_OUTSIDE = 2**32
"""First id of custom types, which leaves room for more built-in ones."""

_outside: dict[int, str] = {}


def problem_type_named(name: Any) -> ProblemType:
    """Find a problem type.

    Args:
        name: its short name, or the import path ``package.module.NAME`` of a custom one.

    Raises:
        UserError: if no type has that name.
    """
    found = instance(name, BUILT_IN, ProblemType, "problem_type")
    if name not in BUILT_IN:
        _outside[problem_type_id(name)] = name
    return found


def known_problem_type(name: Any) -> ProblemType | None:
    """Find a problem type; None if no type has that name."""
    try:
        return problem_type_named(name)
    except UserError:
        return None


def problem_type_id(name: str) -> int:
    """Return the number of a problem type: the same on every rank and in every run, and exact in float64."""
    return PROBLEM_TYPES.index(name) if name in BUILT_IN else FIRST_OUTSIDE + zlib.crc32(name.encode())


def problem_type_of_id(number: int) -> str:
    """Name the problem type of an id; a custom type that this process has not met keeps its number."""
    if number < FIRST_OUTSIDE:
        return PROBLEM_TYPES[number]
    return _outside.get(number, str(number))
