"""Values of a row's columns: missing values, lists, and how messages show them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def missing(value: Any) -> bool:
    """Return whether a value is null, or the NaN of tables without null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def listed(value: Any) -> Any:
    """Return a list, tuple or array as a list."""
    if hasattr(value, "tolist") and not hasattr(value, "convert"):
        value = value.tolist()
    return list(value) if isinstance(value, tuple) else value


def mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object in a column; an empty one if there is none.

    Raises:
        ValueError: if the column holds anything else.
    """
    value = row.get(key)
    value = {} if missing(value) or value == [] else value
    if not isinstance(value, Mapping):
        raise ValueError(f"{key!r} is {shown(value)}; it must be an object")
    return value


def shown(value: Any) -> str:
    """Write a value for a message, cut to 80 characters."""
    # cut before formatting, since a text may be an image
    text = repr(value[:81] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def named(names: Iterable[str]) -> str:
    """List the first twenty names for a message, and cut long ones."""
    short = [" ".join(str(name)[:41].split()) for name in names]
    short = [name if len(name) <= 40 else f"{name[:37]}..." for name in short]
    return ", ".join(short[:20]) + (f" and {len(short) - 20} more" if len(short) > 20 else "")
