"""Readers of row files: JSON lines by offset, other text files converted to them once, tables through ``datasets``."""

import glob
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from lit_g2rpo.data.files.converted import PACKED, SEPARATORS, as_lines, ending
from lit_g2rpo.data.files.json import kind, open_file, parse
from lit_g2rpo.data.files.tables import Table
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.steps import Step

ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")


class Rows(Protocol):
    """Rows of one file or table, read one at a time.

    Attributes:
        name: the name of the file or table.
        source: the user's file; None for a table on the hub.
        fingerprint: what the reader knows about the content without reading it.
    """

    name: str
    source: Path | None
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a row; the caller may keep and change it."""
        ...

    def place(self, index: int) -> str:
        """Name a row for a message."""
        ...


class JsonLines(Sequence[dict[str, Any]]):
    """Rows of a JSON-lines file, read one at a time; only the byte offsets are in memory.

    Reads use absolute positions, so threads and forked processes may share an object. Appending rows to the file or
    replacing it meanwhile has no effect.

    Args:
        path: the file; empty lines are skipped.
        original: the JSON array that the lines were made from, which messages then name.

    Raises:
        UserError: if the file cannot be read or, on access, if a line is not a JSON object or has changed.
    """

    def __init__(self, path: Path, original: Path | None = None) -> None:
        self.path, self.original = path, original
        self.source: Path | None = original or path
        self.name = (original or path).name
        self._offsets, self._lines, self._sums = array("Q"), array("I"), array("I")
        offset = 0
        with Step(f"reading {self.name}"), open_file(path) as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    self._offsets.append(offset)
                    self._lines.append(number)
                    self._sums.append(crc32(line))
                elif self._sums:
                    # a row ends where the next one begins
                    self._sums[-1] = crc32(line, self._sums[-1])
                offset += len(line)
        self._offsets.append(offset)
        self.fingerprint = f"{len(self)} rows, {offset} bytes"
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        start, end = self._offsets[index], self._offsets[index + 1]
        text = os.pread(self._file, end - start, start)
        if crc32(text) != self._sums[index]:
            raise UserError(
                f"{self.place(index)}: the file has changed since it was opened; give a run files that stay as they "
                "are, or move a new file into the place of the old one"
            )
        row = parse(text, self.place(index))
        if not isinstance(row, dict):
            raise UserError(f"{self.place(index)}: is a JSON {kind(row)}; a row must be an object")
        return row

    def place(self, index: int) -> str:
        """Name a row for a message: file and line or row, from 1."""
        word = "line" if self.original is None else "row"
        return f"{self.source}, {word} {self._lines[index]}"

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def read_rows(source: str | os.PathLike[str]) -> Rows:
    """Open a file of rows by its extension, or a table on the Hugging Face hub.

    Args:
        source: ``.jsonl`` with one object per line, ``.json``, ``.tsv`` or ``.csv``, each also compressed (``.gz``,
            ``.bz2``, ``.xz``); ``.parquet``; or ``owner/name@split`` or ``owner/name:config@split`` on the hub.

    Raises:
        UserError: if the file is missing, or has another extension or other content.
    """
    path = Path(source)
    if path.suffix in (".jsonl", ".ndjson") and not _is_array(path):
        return JsonLines(path)
    if ending(path) in (".jsonl", ".ndjson", ".json", *SEPARATORS):
        return JsonLines(as_lines(path), path)
    if path.suffix == ".parquet" or "@" in path.name:
        return Table(str(source))
    raise UserError(
        f"{source}: unknown kind of file; give .jsonl (an object per line), .json (one array), .tsv or .csv, each also "
        f"packed ({', '.join(PACKED)}), .parquet, or a table of the Hugging Face hub as owner/name@split"
    )


def expanded(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the files that match patterns such as ``data/*.jsonl``, sorted by name within each pattern.

    Raises:
        UserError: if a pattern matches no file.
    """
    found = []
    for source in map(str, sources):
        # a split on the hub may have brackets, train[:100], and is not a file
        if not glob.has_magic(source) or "@" in source or os.path.exists(source):
            found.append(source)
            continue
        files = sorted(glob.glob(source, recursive=True))
        if not files:
            raise UserError(f"{source}: no file fits this pattern; give the path of a data file")
        found += files
    return found


def _is_array(path: Path) -> bool:
    """Return whether a JSON-lines file is actually one array of objects."""
    with open_file(path) as file:
        return bool(ARRAY.match(file.read(4096)))
