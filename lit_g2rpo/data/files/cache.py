"""The user's cache folder, whose files become invalid when their data file changes."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: ``lit_g2rpo`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_g2rpo"


def identity(path: Path, state: os.stat_result) -> str:
    """Return a text that identifies the current content of a data file and changes with it."""
    return f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}\n{state.st_ino}"
