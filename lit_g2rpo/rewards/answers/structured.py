"""Structured answers: strict reading of JSON that a policy wrote."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

MAX_JSON_DEPTH = 6
MAX_DIGITS = 20

_BRACKET = re.compile(r"[][{}]")

T = TypeVar("T")


def json_value(text: str) -> Any:
    """Read one JSON value, a fence of three backticks around it allowed.

    More than ``MAX_JSON_DEPTH`` levels and any text besides the value are rejected. A duplicate key gets the value
    NaN, and a whole number of more than ``MAX_DIGITS`` digits becomes a float. `reals` rejects NaN and infinity, so
    each spoils only its own item. The caller bounds the length.

    Returns:
        The value; None if the text is not one (and for ``null``).
    """
    body = _unfence(text.strip())
    # The decoder recurses, so the depth is checked first; brackets inside strings only make the check stricter.
    depth = 0
    for bracket in _BRACKET.findall(body):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_JSON_DEPTH:
            return None
    try:
        return json.loads(body, object_pairs_hook=_object, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def fields(value: Any, *names: str) -> list[Any] | None:
    """Return the fields of a JSON object that must have exactly these.

    Returns:
        Their values in the order of the names; None if ``value`` is anything else.
    """
    if not isinstance(value, dict) or value.keys() != set(names):
        return None
    return [value[name] for name in names]


def reals(value: Any, count: int, low: float, high: float) -> tuple[float, ...] | None:
    """Read a list of numbers; texts and booleans do not count as numbers.

    Args:
        count: required number of items.

    Returns:
        The numbers; None if there are not ``count``, or one is not finite or not between ``low`` and ``high``.
    """
    if not isinstance(value, list) or len(value) != count or not all(type(item) in (int, float) for item in value):
        return None
    if not all(low <= item <= high and math.isfinite(item) for item in value):
        return None
    return tuple(float(item) for item in value)


def whole(items: Sequence[T | None] | None) -> list[T] | None:
    """Return a list that was read item by item; None if it is not a list or one item could not be read."""
    if items is None:
        return None
    found = [item for item in items if item is not None]
    return found if len(found) == len(items) else None


def _unfence(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].removeprefix("json").strip()
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        count = Counter(key for key, _ in pairs)
        result |= {key: math.nan for key in result if count[key] > 1}
    return result


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)
