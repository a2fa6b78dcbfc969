"""Writes rows of any accepted format in the project's own: the canonical shape as JSON lines."""

import json
import os
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.data.images import ImageError, load_image, placed
from lit_g2rpo.data.readers import read_rows
from lit_g2rpo.data.schema import RowReader
from lit_g2rpo.errors import UserError


def convert(files: Sequence[str], output: Path, reader: RowReader) -> tuple[int, int]:
    """Writes the rows of some files into one, and images inside them as files beside it.

    Args:
        files: what ``read_rows`` reads.
        output: a new ``.jsonl`` file; images go to a folder ``<name>_images`` beside it.
        reader: brings the rows to one shape.

    Returns:
        Number of rows, and of images written.

    Raises:
        UserError: if a row cannot be understood or written, or the output exists; nothing is written then.
    """
    folder = output.with_name(f"{output.stem}_images")
    if output.suffix != ".jsonl":
        raise UserError(f"{output}: the output is JSON lines; give a name that ends in .jsonl")
    for path in (output, folder):
        if path.exists():
            raise UserError(f"{path} exists; give another name or move it away")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is no folder; make it first")
    count = 0
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        images = Path(scratch) / "images"
        images.mkdir()
        with (Path(scratch) / "rows").open("w", encoding="utf-8") as lines:
            for file in files:
                rows = read_rows(file)
                for index in range(len(rows)):
                    for row, place in reader.read(rows, index):
                        row["images"] = [
                            image if isinstance(image, str) else _saved(image, images, folder, reader.image_root, place)
                            for image in row["images"]
                        ]
                        lines.write(_line(row, place))
                        count += 1
        if not count:
            raise UserError(f"{', '.join(files)}: no rows; give at least one")
        written = len(list(images.iterdir()))
        if written:
            os.replace(images, folder)
        os.replace(Path(scratch) / "rows", output)
    return count, written


def _saved(image: bytes | Image.Image, scratch: Path, folder: Path, image_root: Path, place: str) -> str:
    """Saves an image that has no file, and names it relative to the image root."""
    if isinstance(image, bytes):
        content, ending = image, _ending(image, place)
    else:
        buffer = BytesIO()
        with placed(place):
            load_image(image).save(buffer, "PNG")
        content, ending = buffer.getvalue(), "png"
    name = f"{sha256(content).hexdigest()[:24]}.{ending}"
    (scratch / name).write_bytes(content)
    path = os.path.relpath(folder.resolve() / name, image_root.resolve())
    if path.startswith(os.pardir):
        raise UserError(f"{place}: its image would be saved in {folder}, outside --image_root {image_root}")
    return path


def _ending(content: bytes, place: str) -> str:
    try:
        with Image.open(BytesIO(content)) as image:
            return (image.format or "img").lower()
    except OSError:
        raise ImageError(f"{place}: an image of {len(content)} bytes is no image that can be read") from None


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
