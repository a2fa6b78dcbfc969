"""JSON in data files: opening, parsing, and names for messages."""

import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from lit_g2rpo.errors import UserError

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Escape of a surrogate; no tokenizer or file accepts a text with a lone one."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from a JSON object.

    Raises:
        ValueError: if it has a duplicate key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"key {twice!r:.80} twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
"""Reads JSON including bare NaN, but rejects objects with duplicate keys."""


def open_file(path: Path) -> BinaryIO:
    """Open a data file for reading bytes.

    Raises:
        UserError: if that fails.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a data file") from None


def parse(text: bytes, place: str) -> Any:
    """Read JSON in UTF-8, including bare NaN.

    Args:
        place: how messages name it.

    Raises:
        UserError: if it is not JSON, or a text in it could not be written again.
    """
    try:
        value = DECODER.decode(text.decode("utf-8-sig"))
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not valid JSON ({error.msg}, at character {error.pos + 1})") from None
    except UnicodeEncodeError:
        raise UserError(f"{place}: not valid JSON (half of a surrogate pair in a text)") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error})") from None
    return value


def kind(value: Any) -> str:
    """Name the JSON type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
