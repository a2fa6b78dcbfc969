"""Checkpoints on disk: whole and flushed or not there, proven before they are used, and read as tensors only."""

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
"""File in a checkpoint that is a folder: size and CRC-32 of every other file in it. A single file holds its own."""

BLOCK = 2**24

AS_FOLDER = 0x10
"""Bit in a zip archive's directory that marks a record as a folder."""

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
"""What file systems say that know no links."""


def part_of(path: Path) -> Path:
    """Name the hidden file or folder that a checkpoint is until it is whole, and again while it is removed."""
    return path.with_name(f".{path.name}.part")


def seal(path: Path) -> None:
    """Turn what lies at `part_of` into the checkpoint: with checksums, on the disk, and only then by its name.

    Raises:
        OSError: if that fails; what had the name before may then be gone.
    """
    part = part_of(path)
    if part.is_dir():
        (part / CHECKSUMS).write_text(json.dumps(_checksums(part), indent=1), encoding="utf-8")
    _flush_all(part)
    if path.is_dir() or part.is_dir():
        # no call puts a folder in the place of something
        remove(path)
    os.replace(part, path)
    flush(path.parent)


def point(link: Path, path: Path) -> None:
    """Let a link name a checkpoint beside it, in one step; where there are no links, it is a copy.

    Raises:
        OSError: if that fails; the link then names what it named before.
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
    """Remove a checkpoint, file or folder, if it is there; nobody sees a part of it."""
    part = part_of(path)
    remove(part)
    if path.exists() or path.is_symlink():
        os.replace(path, part)
        remove(part)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; a folder goes file by file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def remove_parts(folder: Path) -> None:
    """Remove what saves that were killed have left in a folder of checkpoints."""
    for part in folder.glob(".*.part"):
        remove(part)


def verify(path: Path) -> str:
    """Compare every byte of a checkpoint with its checksums.

    Returns:
        What is wrong, for a message; empty if nothing is.
    """
    try:
        return _verify_folder(path) if path.is_dir() else _verify_file(path)
    except OSError as error:
        return error.strerror or str(error)


def read(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a file that `torch.save` wrote, on the CPU.

    Args:
        mmap: leave tensors on the disk until they are used.

    Raises:
        UserError: if it is none, is broken, or holds more than tensors and plain values.
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
    """Make all that is read by `torch.load` inside, by whatever library, tensors and plain values: no code runs.

    Args:
        path: what is read, for messages.
        classes: further classes that may be in it.

    Raises:
        UserError: if there is more in it.
    """
    load = torch.load

    def safe(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **(kwargs | {"weights_only": True}))

    # libraries that read whole folders say weights_only=False themselves
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
    # torch.save writes a zip archive without compression, whose checksums torch.load does not look at
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                return f"the checksum of {broken} in it is wrong"
            # torch leaves memory as it is for a record that is marked as a folder, and says nothing
            if marked := next((record for record in archive.infolist() if record.external_attr & AS_FOLDER), None):
                return f"{marked.filename} in it is marked as a folder"
        read(path, mmap=True)
    except UserError as error:
        return str(error)
    except Exception as error:  # damaged bytes make an archive's reader raise anything
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
    """Take the one line out of torch's many that says what was found."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return named[1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
