"""Checkpoints on disk: either complete and flushed or absent, verified before use, and read as tensors only."""

import errno
import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import flush
from lit_g2rpo.registry import one_line

CHECKSUMS = "checksums.json"
"""File of a checkpoint folder with the size and CRC-32 of every other file. A single-file checkpoint has its own."""

BLOCK = 2**24

AS_FOLDER = 0x10
"""Bit in a zip archive's directory that marks a record as a folder."""

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
"""Errors of file systems that do not support links."""


def part_of(path: Path) -> Path:
    """Return the hidden path that a checkpoint has until it is complete, and again while it is being removed."""
    return path.with_name(f".{path.name}.part")


def seal(path: Path) -> None:
    """Turn what is at `part_of` into the checkpoint: add checksums, flush it to disk, and only then rename it.

    Raises:
        OSError: if that fails; an earlier checkpoint of that name may then be gone.
    """
    part = part_of(path)
    if part.is_dir():
        (part / CHECKSUMS).write_text(json.dumps(_checksums(part), indent=1), encoding="utf-8")
    _flush_all(part)
    if path.is_dir() or part.is_dir():
        # no system call replaces something with a folder
        remove(path)
    os.replace(part, path)
    flush(path.parent)


def point(link: Path, path: Path) -> None:
    """Point a link atomically at a checkpoint in the same folder; make a copy if links are not supported.

    Raises:
        OSError: if that fails; the link then points where it did before.
    """
    if link.is_dir() and not link.is_symlink():
        discard(link)
    part = part_of(link)
    remove(part)
    try:
        part.symlink_to(path.name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, part)
        _flush_all(part)
    os.replace(part, link)
    flush(link.parent)


def discard(path: Path) -> None:
    """Remove a checkpoint, file or folder, if it exists; nobody sees it half removed."""
    part = part_of(path)
    remove(part)
    if path.exists() or path.is_symlink():
        os.replace(path, part)
        remove(part)


def remove(path: Path) -> None:
    """Remove a file, link or folder if it exists; a folder is removed file by file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def remove_parts(folder: Path) -> None:
    """Remove what killed saves left in a folder of checkpoints."""
    for part in folder.glob(".*.part"):
        remove(part)


def verify(path: Path) -> str:
    """Verify every byte of a checkpoint against its checksums.

    Returns:
        What is wrong, for a message; empty if it is intact.
    """
    try:
        return _verify_folder(path) if path.is_dir() else _verify_file(path)
    except OSError as error:
        return error.strerror or str(error)


def read(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a file written by `torch.save`, on the CPU.

    Args:
        mmap: leave tensors on disk until they are used.

    Raises:
        UserError: if it is not such a file, is broken, or holds anything but tensors and plain values.
    """
    with tensors_only(path):
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", mmap=mmap)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a checkpoint ({_first_reason(error)})") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


@contextmanager
def tensors_only(path: Path, *classes: type) -> Iterator[None]:
    """Restrict `torch.load` inside the block, whichever library calls it, to tensors and plain values, so no code runs.

    Args:
        path: the file or folder being read, for messages.
        classes: other classes that it may contain.

    Raises:
        UserError: if it contains anything else.
    """
    load = torch.load

    def safe(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **(kwargs | {"weights_only": True}))

    # libraries that read whole folders pass weights_only=False themselves
    torch.load = safe
    try:
        with torch.serialization.safe_globals(list(classes)):
            yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and plain values, or is broken ({_first_reason(error)}); "
            "it is not read, since reading it could run any code"
        ) from None
    finally:
        torch.load = load


def _verify_file(path: Path) -> str:
    if not path.is_file():
        return "it is neither a file nor a folder"
    # torch.save writes an uncompressed zip archive, whose checksums torch.load does not verify
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                return f"the checksum of {broken} in it is wrong"
            # torch silently leaves memory uninitialized for a record that is marked as a folder
            if marked := next((record for record in archive.infolist() if record.external_attr & AS_FOLDER), None):
                return f"{marked.filename} in it is marked as a folder"
        read(path, mmap=True)
    except UserError as error:
        return str(error)
    except Exception as error:  # on damaged bytes, the archive's reader may raise anything
        return f"it is damaged ({one_line(error)})"
    return ""


def _verify_folder(path: Path) -> str:
    if not (path / CHECKSUMS).is_file():
        if not any(file.suffix == ".pt" for file in path.rglob("*")):
            return "it is a folder that holds no tensors"
        warnings.warn(f"{path} holds no {CHECKSUMS}: whether it is whole is not known", stacklevel=2)
        return ""
    try:
        noted = dict(json.loads((path / CHECKSUMS).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return f"{CHECKSUMS} in it is damaged"
    found = _checksums(path)
    for name in sorted(noted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if noted.get(name) != found[name]:
            return f"the checksum of {name} in it is wrong"
    return ""


def _flush_all(path: Path) -> None:
    for place in (path, *(path.rglob("*") if path.is_dir() else ())):
        flush(place)


def _checksums(folder: Path) -> dict[str, list[int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / CHECKSUMS]
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc(path)] for path in files}


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def _first_reason(error: Exception) -> str:
    """Pick the one line of torch's long message that says what was found."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
