"""Columns that hold images and are not read, so that no policy is trained blind."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lit_g2rpo.rewards.rows.media import is_image
from lit_g2rpo.rewards.rows.targets import listed
from lit_g2rpo.rewards.rows.turns import IMAGE
from lit_g2rpo.rewards.rows.written import from_text

NAMES_IMAGE = re.compile(r"(image|img|picture|photo)_?(ids?|no|number|index|idx)", re.IGNORECASE)
"""Names of columns that say which image a row is about."""
TEXTS = {
    "answer",
    "solution",
    "problem",
    "demonstration",
    "earlier_turns",
    "options",
    "choices",
    "completion",
    "completions",
}
MAX_DEPTH = 4


def unread_images(row: Mapping[str, Any]) -> str | None:
    """Say in one line which column of a row holds images that are not read; None if there is none, or some are.

    Args:
        row: the row, in canonical shape.
    """
    if row["images"] or row.get("videos") or IMAGE in row["problem"]:
        return None
    found = [name for key, value in row.items() if key not in TEXTS for name in _holding(key, value)]
    if found:
        names = ", ".join(map(repr, found))
        option = "--column images=" + ",".join(found)
        return (
            f"no image is read, but {names} {'holds one' if len(found) == 1 else 'hold some'}; name the column in "
            f"data.columns.images ({option}), or none for a row of text alone ('--column images=')"
        )
    name = next((key for key, value in row.items() if NAMES_IMAGE.fullmatch(key) and value not in (None, "")), None)
    if name is not None:
        return f"no image is read, but {name!r} names one; give its path in 'images', or '--column images=' for none"
    return None


def _holding(name: str, value: Any, depth: int = 0) -> Iterator[str]:
    """Find the columns, and keys inside them, whose values are images."""
    value = listed(from_text(value))
    if is_image(value, loose=False):
        yield name
    elif isinstance(value, Mapping) and depth < MAX_DEPTH:
        for key, inside in value.items():
            yield from _holding(f"{name}.{key}", inside, depth + 1)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for inside in value[:8]:
            if found := list(_holding(name, inside, depth + 1)):
                yield found[0]
                return
