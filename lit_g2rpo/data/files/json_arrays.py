"""JSON arrays as JSON lines, converted once and kept in the user's cache folder."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_g2rpo.data.files.cache import cache_folder, identity
from lit_g2rpo.data.files.json import DECODER, kind, open_file
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import whole

SPACE = re.compile(r"[ \t\r\n]*")


def as_lines(path: Path) -> Path:
    """Convert a JSON array to JSON lines, unless that was done since the file was last changed.

    Args:
        path: a file with one array of objects; bare NaN is accepted.

    Returns:
        The file with an object per line.

    Raises:
        UserError: if the file cannot be read, holds something else, or the cache folder cannot be written.
    """
    with open_file(path) as file:
        state = identity(path, os.fstat(file.fileno()))
        lines = cache_folder() / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.jsonl"
        if lines.is_file():
            return lines
        try:
            text = file.read().decode()
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    try:
        with whole(lines) as part, part.open("w", encoding="utf-8") as file:
            for row in _objects(text, path):
                file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be converted in {lines.parent} ({error.strerror}); set XDG_CACHE_HOME to a folder that "
            "can be written, or give the rows as .jsonl"
        ) from None
    return lines


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of an array one after the other: all of them as objects take five times the memory."""
    decode, at = DECODER.raw_decode, _skip(text, 0)
    if text[at : at + 1] != "[":
        raise UserError(f"{path}: {_instead(text)}; it must be an array of rows")
    at, number = _skip(text, at + 1), 0
    while number or text[at : at + 1] != "]":
        number += 1
        try:
            row, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, row {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: is a JSON {kind(row)}; a row must be an object")
        yield row
        at = _skip(text, at)
        if (after := text[at : at + 1]) == "]":
            break
        if after != ",":
            found = repr(after) if after else "the end of the file"
            raise UserError(f"{path}, row {number}: not valid JSON ({found} follows it instead of a comma or ])")
        at = _skip(text, at + 1)
    if _skip(text, at + 1) != len(text):
        raise UserError(f"{path}: not valid JSON (text behind the end of the array)")


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _instead(text: str) -> str:
    try:
        return f"holds one JSON {kind(DECODER.decode(text))}"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
