"""The user's cache folder, and its files: written whole or not at all, void once the data file changes."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def cache_folder() -> Path:
    """Return the cache folder: ``lit_g2rpo`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_g2rpo"


def identity(path: Path, state: os.stat_result) -> str:
    """Name the present content of a data file.

    Args:
        state: its size and times.

    Returns:
        A text that is another one once the file has changed.
    """
    return f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}\n{state.st_ino}"


@contextmanager
def written(path: Path) -> Iterator[IO[str]]:
    """Write a file of the cache; of several processes each writes its own, and the last one stays.

    Returns:
        What to write to; the file is there once that is closed without an error.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as part:
        try:
            yield part
            part.close()
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise
