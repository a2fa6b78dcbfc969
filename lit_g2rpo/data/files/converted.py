"""Files of rows in other formats, converted to JSON lines once and kept in the user's cache folder."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lit_g2rpo.data.files.cache import cache_folder, identity
from lit_g2rpo.data.files.coco import coco_rows, is_coco
from lit_g2rpo.data.files.json import DECODER, kind, open_file, parse
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import whole
from lit_g2rpo.hardware.steps import Step

SPACE = re.compile(r"[ \t\r\n]*")
PACKED: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Extensions of compressed files, and their openers."""
SEPARATORS = {".tsv": "\t", ".csv": ","}
MAX_CELL = 2**31 - 1


def ending(path: Path) -> str:
    """Return the extension that gives a file's format, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()


def as_lines(path: Path) -> Path:
    """Convert a file to JSON lines, unless that was done since its last change.

    Args:
        path: JSON (an array of objects, an object with one such array, COCO instances, or lines), JSON lines, or a
            table with a header line; compressed or not. Bare NaN is accepted.

    Returns:
        The file with one object per line.

    Raises:
        UserError: if the file cannot be read, holds anything else, or the cache folder cannot be written.
    """
    with open_file(path) as file:
        state = identity(path, os.fstat(file.fileno()))
        lines = cache_folder() / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.jsonl"
        if lines.is_file():
            return lines
        text = _text(file, path)
    try:
        with Step(f"converting {path.name}"), whole(lines) as part, part.open("w", encoding="utf-8") as out:
            for row in _rows(text, path):
                out.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be converted in {lines.parent} ({error.strerror}); set XDG_CACHE_HOME to a folder that "
            "can be written, or give the rows as .jsonl"
        ) from None
    return lines


def _text(file: BinaryIO, path: Path) -> str:
    unpack = PACKED.get(path.suffix.lower())
    try:
        content: bytes = unpack(file).read() if unpack else file.read()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(
            f"{path}: cannot be unpacked ({error})" if unpack else f"{path}: cannot be read ({error})"
        ) from None


def _rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    if separator := SEPARATORS.get(ending(path)):
        yield from _cells(text, separator, path)
    elif text[_skip(text, 0) :][:1] != "{":
        yield from _objects(text, path)
    elif ending(path) == ".json" and (value := _one(text, path)) is not None:
        yield from _wrapped(value, path)
    else:
        yield from _lines(text, path)


def _cells(text: str, separator: str, path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a table; an empty cell is a missing value."""
    limit = csv.field_size_limit(MAX_CELL)
    try:
        # quotes inside an unquoted text may be unbalanced: only cells that begin with a quote are quoted
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = next(rows, [])
        if not all(names) or len(set(names)) != len(names):
            raise UserError(f"{path}: its first line must name the columns, each once; it is {names}")
        for cells in rows:
            if cells and len(cells) != len(names):
                raise UserError(f"{path}, line {rows.line_num}: {len(cells)} cells for {len(names)} columns")
            if cells:
                yield {name: cell or None for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: no row of a table ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _one(text: str, path: Path) -> dict[str, Any] | None:
    """Read a text that is a single object; None if there are several."""
    try:
        value: dict[str, Any] = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, RecursionError):
            json.loads(text)
            raise UserError(f"{path}: not valid JSON ({error})") from None
        return None
    return value


def _wrapped(value: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    if is_coco(value):
        yield from coco_rows(value, path)
        return
    lists = [name for name, inside in value.items() if inside and _is_rows(inside)]
    if len(lists) != 1:
        held = f"lists of rows in {', '.join(lists)}" if lists else f"no list of rows in {', '.join(value)}"
        raise UserError(f"{path}: holds one JSON object, with {held}; it must be an array of rows, or hold one")
    yield from value[lists[0]]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _lines(text: str, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = parse(line.encode(errors="surrogatepass"), f"{path}, line {number}")
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: is a JSON {kind(row)}; a row must be an object")
            yield row


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of an array one at a time, because all of them as objects take five times the memory."""
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
