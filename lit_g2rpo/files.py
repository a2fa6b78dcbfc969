"""Files that are written completely or not at all, and checks for writability before the work that fills them."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_g2rpo.errors import UserError

SCRATCH = re.compile(r"\.(.+)-[a-z0-9_]{8}")
"""Name of the folder that `whole` works in, which contains the name of the output."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file or folder next to its destination, and move it there once the block ends without an error.

    Nobody sees it half written, and if several processes write the same path, the last one wins. Parent folders are
    created.

    Args:
        path: a file, which is replaced, or a folder, which must be new or empty.

    Yields:
        The path to write, with the same name; if the block does not create it, ``path`` is unchanged.

    Raises:
        OSError: if it cannot be written.
    """
    # a link remains a link
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        part = Path(scratch) / path.name
        yield part
        if part.exists():
            os.replace(part, target)


def remove_scratch(folder: Path) -> None:
    """Remove what processes killed inside `whole` left in a folder; no other process may be writing there."""
    for path in folder.glob(".*-????????"):
        found = SCRATCH.fullmatch(path.name)
        # but not other files with such a name
        if found and path.is_dir() and all(part.name == found[1] for part in path.iterdir()):
            shutil.rmtree(path)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, completely or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk before returning.

    Raises:
        OSError: if that fails.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # some file systems do not support fsync on folders
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(opened)


def check_writable(path: Path) -> None:
    """Refuse an output that cannot be written, before the work that fills it.

    Args:
        path: a file or folder to create, along with missing parent folders.

    Raises:
        UserError: if its parent folder is not writable.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryDirectory(dir=folder).cleanup()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give a name in another folder") from None
