"""The user's cache folder, whose files are void once the data file they were made of changes."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: ``lit_g2rpo`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_g2rpo"


def identity(path: Path, state: os.stat_result) -> str:
    """Name the present content of a data file by a text that is another one once the file has changed."""
    return f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}\n{state.st_ino}"
