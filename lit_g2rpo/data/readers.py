"""Files of rows: JSON lines by offset, JSON arrays whole."""

import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import UserError


class JsonLines(Sequence[dict[str, Any]]):
    """Rows of a JSON-lines file, read one at a time; only the byte offsets are in memory.

    Reading is by absolute position, so threads and forked processes may share an object.

    Args:
        path: the file; empty lines are skipped.

    Raises:
        UserError: if the file cannot be read, or, on access, if a line is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets, self._lines = array("Q"), array("Q")
        offset = 0
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    self._offsets.append(offset)
                    self._lines.append(number)
                offset += len(line)
        self._offsets.append(offset)
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        """Reads a row."""
        index = range(len(self))[index]
        start, end = self._offsets[index], self._offsets[index + 1]
        return _row(os.pread(self._file, end - start, start), self.place(index))

    def place(self, index: int) -> str:
        """Names a row for a message: file and line, from 1."""
        return f"{self.path}, line {self._lines[index]}"

    def __del__(self) -> None:
        """Closes the file."""
        if hasattr(self, "_file"):
            os.close(self._file)


class JsonArray(Sequence[dict[str, Any]]):
    """Rows of a JSON file that holds one array, all in memory.

    Args:
        path: the file.

    Raises:
        UserError: if the file cannot be read or does not hold an array of objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            self._rows = _parsed(file.read(), str(path))
        if not isinstance(self._rows, list):
            raise UserError(f"{path}: holds one JSON {_kind(self._rows)}; it must be an array of rows")
        for index, row in enumerate(self._rows):
            if not isinstance(row, dict):
                raise UserError(f"{self.place(index)}: is a JSON {_kind(row)}; a row must be an object")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """Returns a row."""
        return self._rows[index]

    def place(self, index: int) -> str:
        """Names a row for a message: file and row, from 1."""
        return f"{self.path}, row {index + 1}"


def read_rows(path: str | os.PathLike[str]) -> JsonLines | JsonArray:
    """Opens a file of rows by its ending.

    Args:
        path: ``.jsonl`` with an object per line, or ``.json`` with one array of objects.

    Returns:
        Its rows.

    Raises:
        UserError: if the file is missing, has another ending or another content.
    """
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise UserError(f"{path}: unknown kind of file; give .jsonl (an object per line) or .json (one array)")
    return JsonLines(path) if path.suffix == ".jsonl" else JsonArray(path)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a data file") from None


def _parsed(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error})") from None


def _row(line: bytes, place: str) -> dict[str, Any]:
    row = _parsed(line, place)
    if not isinstance(row, dict):
        raise UserError(f"{place}: is a JSON {_kind(row)}; a row must be an object")
    return row


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
