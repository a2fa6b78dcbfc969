"""Extraction of a row's images and videos from its columns; no file is opened."""

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.values import listed, missing, shown

SOURCES = ("bytes", "path", "image", "image_url", "url", "data", "base64")
"""Keys of an object that represents an image; keys for its content come first."""

_WORD = "image|img|picture|photo|pic|figure|screenshot"
IMAGE_COLUMN = re.compile(
    rf"(?P<stem>(decoded_|input_|raw_)?({_WORD})s?([_-]?(path|url|uri|file|filename|filepath|name|src|source|byte|data"
    r"|list|base64|b64))*s?)[_-]?(?P<number>\d*)",
    re.IGNORECASE,
)
"""Names of columns that hold only images; columns that differ only by a number belong together."""
NAMED = re.compile(r"[^\n\0]*\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|jfif|ppm)(\?[^\s]*)?", re.IGNORECASE)
"""Paths and addresses of images."""
BASE64 = re.compile(
    r"((iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{8,}"
    r"|(Qk[0-9A-Za-z+/]{2}|SUkqA|TU0AK)[A-Za-z0-9+/\s]{40,})={0,2}\s*"
)
"""The first bytes of PNG, JPEG, GIF, WebP, BMP and TIFF in base64."""
MAX_WORDS = 4
"""Most words in a path."""
NOTHING = {"none", "null", "nan", "n/a"}
"""Texts that mean that there is no image."""
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def take_images(rest: dict[str, Any]) -> tuple[list[Any], str | None]:
    """Extract the images from a row.

    Args:
        rest: the row without nulls; the columns that are read are removed.

    Returns:
        Paths, bytes or PIL images, and the name of the column; None if no column holds any.

    Raises:
        ValueError: if a column holds anything else, or several columns qualify.
    """
    for name in ("images", "image"):
        if name in rest:
            series = _series(rest, name) if name == "image" else []
            found = [image for one in [name, *series] for image in _several(rest.pop(one), one)]
            other = rest.pop("image", [])
            blank = isinstance(other, str) and _is_blank(other)
            if not blank and any(one not in found for one in _several(other, "image")):
                raise ValueError(
                    "'images' and 'image' hold different images; say which are meant: data.columns.images "
                    "(--column images=images, images=image, or images=image,images for both)"
                )
            return found, name
    if "solution" in rest and isinstance(rest.get("path"), str):
        more = rest.pop("additional_path", None) or []
        return [rest.pop("path"), *([more] if isinstance(more, str) else more)], "path"
    stems: dict[str, list[str]] = {}
    for name, value in rest.items():
        if (stem := _stem(name)) and is_image(value):
            stems.setdefault(stem, []).append(name)
    if not stems:
        return [], None
    if len(stems) > 1:
        names = [name for names in stems.values() for name in names]
        raise ValueError(
            f"columns {', '.join(map(repr, names))} all hold images; say which are meant, in order: "
            f"data.columns.images (--column images={','.join(names)})"
        )
    [names] = stems.values()
    names.sort(key=_number)
    return [image for name in names for image in _several(rest.pop(name), name)], names[0]


def take_videos(rest: dict[str, Any]) -> list[Any]:
    """Extract the videos: paths or bytes, or clips as ``{"video": .., "video_start": .., "video_end": ..}``.

    Raises:
        ValueError: if a column holds anything else.
    """
    found = listed(from_text(rest.pop("videos", None)))
    single = rest.pop("video", None)
    if found is None and single is not None:
        found = listed(single)
    if found is None and rest.get("data_type") == "video" and isinstance(rest.get("path"), str):
        found = rest.pop("path")
    if found is None:
        return []
    return [video_of(video) for video in (found if isinstance(found, list) else [found])]


def video_of(video: Any) -> Any:
    """Read a video or a clip of one.

    Raises:
        ValueError: if it is neither.
    """
    source, part = video, {}
    if isinstance(video, Mapping):
        source = next((video[key] for key in ("bytes", "path", "video", "url") if video.get(key) is not None), None)
        part = {key: video[key] for key in ("video_start", "video_end") if video.get(key) is not None}
    if not isinstance(source, str | bytes) or _is_blank(source):
        what = "an empty text" if isinstance(source, str) else shown(video)
        raise ValueError(f"'videos' holds {what}; give paths or bytes")
    return {"video": source, **part} if part else source


def image_of(image: Any, column: str = "images") -> Any:
    """Read an image: a path, bytes, a PIL image, base64, or an object with one of them.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(image, Mapping):
        named = [image[key] for key in SOURCES if image.get(key)]
        found = named or _alone(image)
        return image_of(found[0], column) if found else _refused(image, column)
    if isinstance(image, str):
        if image.startswith("data:image") or BASE64.fullmatch(image):
            try:
                return base64.b64decode("".join(image.rpartition(",")[2].split()), validate=True)
            except binascii.Error as error:
                raise ValueError(f"an image is base64 that cannot be decoded ({error}): {shown(image)}") from None
        return _refused(image, column) if _is_blank(image) else image
    return image if isinstance(image, bytes) or hasattr(image, "convert") else _refused(image, column)


def is_source(image: Any) -> bool:
    """Return whether `image_of` would return an image unchanged."""
    if type(image) is str:
        return not (_is_blank(image) or image.startswith("data:image") or BASE64.fullmatch(image))
    return type(image) is bytes or hasattr(image, "convert")


def _is_blank(source: str | bytes) -> bool:
    return not source or source.isspace()


def is_image(value: Any, loose: bool = True) -> bool:
    """Return whether a value represents images: a path, a URL, bytes, or a list or object of them.

    Args:
        loose: accept any text without a blank as a path.
    """
    value = listed(from_text(value))
    if isinstance(value, list):
        return bool(value) and all(is_image(one, loose) for one in value)
    if isinstance(value, Mapping):
        named = [value[key] for key in SOURCES if value.get(key)]
        return any(is_image(one, loose) for one in (named or (_alone(value) if loose else ())))
    if isinstance(value, bytes):
        return value.startswith(MAGIC)
    if isinstance(value, str):
        plain = loose and len(value.split()) == 1 and value.casefold() not in NOTHING
        path = "." in value and len(value.split()) <= MAX_WORDS and NAMED.fullmatch(value)
        return plain or bool(path or value.startswith("data:image") or BASE64.fullmatch(value))
    return hasattr(value, "convert")


def _alone(image: Mapping[str, Any]) -> list[Any]:
    """Find the only text or content in an object with unknown keys."""
    found = [value for value in image.values() if isinstance(value, str | bytes) and value]
    return found if len(found) == 1 else []


def _several(value: Any, column: str) -> list[Any]:
    value = listed(from_text(value))
    return [image_of(image, column) for image in (value if isinstance(value, list) else [value])]


def first_number(column: str | None) -> int | None:
    """Read the image number at the end of a column's name; None if it has none."""
    match = IMAGE_COLUMN.fullmatch(column or "")
    return int(match["number"]) if match and match["number"] else None


def _series(rest: Mapping[str, Any], name: str) -> list[str]:
    same = [key for key in rest if key != name and _stem(key) == name and _number(key)]
    return sorted((key for key in same if is_image(rest[key])), key=_number)


@lru_cache(maxsize=4096)
def _stem(name: str) -> str:
    match = IMAGE_COLUMN.fullmatch(name)
    return match["stem"].casefold() if match else ""


def _number(name: str) -> int:
    match = IMAGE_COLUMN.fullmatch(name)
    return int(match["number"] or 0) if match else 0


def _refused(image: Any, column: str) -> Any:
    if missing(image) or isinstance(image, str):
        what = "an empty text" if isinstance(image, str) else "null"
        raise ValueError(f"{column!r} holds {what} for an image; give a path, or leave it out")
    raise ValueError(f"{column!r} holds {shown(image)}; give paths, bytes or PIL images")
