"""Conversion of rows in any accepted format to the project's own: the canonical shape as JSON lines."""

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.data.files.readers import expanded, read_rows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.media.images import load_image, opened, placed
from lit_g2rpo.data.media.videos import Clip, container_name
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import whole
from lit_g2rpo.hardware.steps import Step

Encode = Callable[[Any], tuple[bytes, str]]


def convert(files: Sequence[str], output: Path, reader: RowReader) -> tuple[int, int, int]:
    """Write the rows of several files into one, and embedded images and videos as files beside it.

    Args:
        files: what ``read_rows`` reads.
        output: a new ``.jsonl`` file; images go to a folder ``<name>_images`` beside it, videos to ``<name>_videos``.

    Returns:
        Number of rows, and of images and videos written.

    Raises:
        UserError: if a row cannot be understood or written, or the output exists; then nothing is written.
    """
    images, videos = (output.with_name(f"{output.stem}_{kind}") for kind in ("images", "videos"))
    if output.suffix != ".jsonl":
        raise UserError(f"{output}: the output is JSON lines; give a name that ends in .jsonl")
    for path in (output, images, videos):
        if path.exists():
            raise UserError(f"{path} exists; give another name or move it away")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is not a folder; make it first")
    count = 0
    # the rows are moved last
    with whole(output) as lines, whole(images) as new_images, whole(videos) as new_videos:
        savers = {
            "images": _Saver(new_images, images, reader.image_root, _image),
            "videos": _Saver(new_videos, videos, reader.image_root, _video),
        }
        with lines.open("w", encoding="utf-8") as file:
            for source in expanded(files):
                rows = read_rows(source)
                with Step(f"converting {rows.name}", len(rows), "rows") as step:
                    for index in range(len(rows)):
                        for row, place in reader.read(rows, index):
                            for kind, saver in savers.items():
                                if kind in row:
                                    row[kind] = [saver.named(one, place) for one in row[kind]]
                            file.write(_line(row, place))
                            count += 1
                        step.advance()
        if not count:
            raise UserError(f"{', '.join(files)}: no rows; give at least one")
    return count, len(savers["images"].saved), len(savers["videos"].saved)


class _Saver:
    """Save images or videos that have no file, and write identical content once.

    Args:
        part: folder to write to, created for the first one.
        folder: final location of that folder.
        image_root: folder that names are relative to.
        encode: returns the content of a file and its extension.
    """

    def __init__(self, part: Path, folder: Path, image_root: Path, encode: Encode) -> None:
        self.part, self.folder, self.image_root, self.encode = part, folder, image_root, encode
        self.saved: set[str] = set()

    def named(self, source: Any, place: str) -> Any:
        """Save one and return its name; one that already has a file keeps its name."""
        if isinstance(source, str):
            return source
        if isinstance(source, dict):
            return source | {"video": self.named(source["video"], place)}
        with placed(place):
            content, ending = self.encode(source)
        name = f"{sha256(content).hexdigest()[:24]}.{ending}"
        self.part.mkdir(exist_ok=True)
        (self.part / name).write_bytes(content)
        self.saved.add(name)
        path = os.path.relpath(self.folder.resolve() / name, self.image_root.resolve())
        if path.startswith(os.pardir):
            raise UserError(f"{place}: it would be saved in {self.folder}, outside --image_root {self.image_root}")
        return path


def _image(source: bytes | Image.Image) -> tuple[bytes, str]:
    if isinstance(source, Image.Image):
        buffer = BytesIO()
        load_image(source).save(buffer, "PNG")
        return buffer.getvalue(), "png"
    with opened(source) as image:
        return source, (image.format or "img").lower()


def _video(source: bytes) -> tuple[bytes, str]:
    return source, container_name(Clip(source))


def _line(row: dict[str, Any], place: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        columns = [key for key, value in row.items() if not _is_json(value)]
        raise UserError(f"{place}: column {', '.join(columns)} cannot be written as JSON ({error})") from None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
