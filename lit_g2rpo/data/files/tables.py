"""Parquet files and tables on the Hugging Face hub, read through ``datasets``."""

import re
from pathlib import Path
from typing import Any

from lit_g2rpo.data.files.json import open_file
from lit_g2rpo.errors import UserError

HUB = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?@(?P<split>[\w.\[\]:%+-]+)")


class Table:
    """Rows of a table, read one at a time from the Arrow file that ``datasets`` creates once.

    Args:
        source: a ``.parquet`` file, or ``owner/name@split`` or ``owner/name:config@split``.

    Raises:
        UserError: if ``datasets`` is not installed, or the table cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.name = Path(source).name
        self.source = Path(source) if source.endswith(".parquet") else None
        self._source = source
        # Arrow rows contain images as stored, so this project's own rules open and check them.
        self._table = _load(source).with_format("arrow")
        self.fingerprint: str = self._table._fingerprint

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table[range(len(self))[index]].to_pylist()[0]
        return row

    def place(self, index: int) -> str:
        """Name a row for a message: table and row, from 1."""
        return f"{self._source}, row {index + 1}"


def _load(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{source}: reading tables needs the extra parquet: pip install 'lit_g2rpo[parquet]'; or give .jsonl"
        ) from None
    if source.endswith(".parquet"):
        open_file(Path(source)).close()
        options = {"path": "parquet", "data_files": source, "split": "train"}
    elif found := HUB.fullmatch(source):
        options = {"path": found["path"], "name": found["config"], "split": found["split"]}
    else:
        raise UserError(f"{source}: is no file and no hub name; a table of the hub is owner/name@split")
    try:
        return datasets.load_dataset(**options)
    except Exception as error:  # datasets raises whatever its readers and the network raise
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{source}: datasets cannot read it ({reason[0][:300]})") from error
