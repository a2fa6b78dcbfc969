"""Files that appear whole or not at all, and whether they can be written, asked before the work that fills them."""

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
"""Name of a folder that `whole` works in, with that of what it writes."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file or folder beside its place and move it there once the block ends without an error.

    Nobody sees a part of it, and of several processes that write the same path the last one stays. Folders above it
    are made.

    Args:
        path: a file, which is replaced, or a folder, which must be new or empty.

    Yields:
        The path to write, of the same name; what the block does not make leaves ``path`` as it was.

    Raises:
        OSError: if it cannot be written.
    """
    # a link stays one
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        part = Path(scratch) / path.name
        yield part
        if part.exists():
            os.replace(part, target)


def remove_scratch(folder: Path) -> None:
    """Remove what processes that were killed inside `whole` have left in a folder; no other may be writing there."""
    for path in folder.glob(".*-????????"):
        found = SCRATCH.fullmatch(path.name)
        # and nothing that only has such a name
        if found and path.is_dir() and all(part.name == found[1] for part in path.iterdir()):
            shutil.rmtree(path)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before this returns.

    Raises:
        OSError: if the disk cannot.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # some file systems know no fsync of a folder
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(opened)


def check_writable(path: Path) -> None:
    """Refuse an output that could not be written, before the work that fills it.

    Args:
        path: a file or folder that will be made, its folder too if need be.

    Raises:
        UserError: if the folder it lies in cannot be written.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryDirectory(dir=folder).cleanup()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give a name in another folder") from None
