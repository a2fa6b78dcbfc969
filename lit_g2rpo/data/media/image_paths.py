"""Locate the images of a row, which must be inside the image root."""

import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lit_g2rpo.data.media.images import ImageError, Source
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.values import shown

MAX_SHOWN = 255
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{256,}={0,2}\s*")


def image_sources(row: dict[str, Any], image_root: Path, place: str) -> list[Source]:
    """Find the images of a row in canonical shape.

    Raises:
        UserError: if a path leaves the folder, even through a link; an ``ImageError`` if it is not a file.
    """
    return [inside(image, image_root, place) if isinstance(image, str) else image for image in row["images"]]


def inside(name: str, image_root: Path, place: str, kind: str = "image") -> Path:
    """Find a file that must be inside the image root.

    Args:
        name: its path, relative to the root.
        place: how messages name the row.
        kind: ``image`` or ``video``, for messages.

    Raises:
        UserError: if the path leaves the folder, even through a link; an ``ImageError`` if it is not a file.
    """
    if name.startswith("file://"):
        # as in Qwen's own examples
        name = unquote(name.removeprefix("file://"))
    right = "data:image/png;base64,... with its own format" if kind == "image" else "its bytes"
    if name.startswith("data:"):
        raise UserError(f"{place}: {kind} {shown(name)} is a data address of another kind; give {right}, or a path")
    if _BASE64.fullmatch(name):
        raise UserError(f"{place}: {kind} {shown(name)} is base64 of no known format; give {right}, or a path")
    if "\0" in name:
        raise UserError(f"{place}: {kind} {shown(name)} is no path; give one inside data.image_root {image_root}")
    if "://" in name:
        raise UserError(
            f"{place}: {kind} {shown(name)} is an address of the web; save it in data.image_root {image_root}"
        )
    absolute = os.path.abspath(image_root)
    root = _resolved(absolute)
    # folders are resolved once, so each row costs one file lookup
    path = os.path.join(absolute, name)
    path = os.path.join(_resolved(os.path.dirname(path)), os.path.basename(path))
    mode = _mode(path)
    link = stat.S_ISLNK(mode)
    if link:
        path = os.path.realpath(path)
        mode = _mode(path)
    path = os.path.normpath(path)
    if not path.startswith(root.rstrip(os.sep) + os.sep):
        verb = f"leads to {path}," if link else "lies"
        raise UserError(
            f"{place}: {kind} {shown(name)} {verb} outside data.image_root {image_root}; use a path inside it"
        )
    if not stat.S_ISREG(mode):
        path = path if len(path) <= MAX_SHOWN else f"{path[: MAX_SHOWN - 3]}..."
        raise ImageError(f"{place}: no {kind} file {path}; check '{kind}s' and data.image_root")
    return Path(path)


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):
        return 0


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)
