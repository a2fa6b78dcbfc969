"""Data rows of any accepted format, read into one shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_g2rpo.data.files.readers import Rows
from lit_g2rpo.data.media.image_paths import image_sources
from lit_g2rpo.data.media.images import image_size, placed
from lit_g2rpo.data.media.videos import VideoLimits
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.rows.conflicts import conflict
from lit_g2rpo.rewards.rows.phrases import has_phrases, phrase_rows
from lit_g2rpo.rewards.rows.targets import SizeNeeded
from lit_g2rpo.rewards.rows.values import named


class RowReader:
    """Read rows of any accepted format into one shape.

    Args:
        image_root: folder that image paths are relative to.
        columns: what the file calls a column, by the name it should have, such as ``{"problem": "query_text"}``.
        defaults: values of columns that a row does not have, such as ``{"task_type": "ocr"}``.
        exif_rotation: turn images as their EXIF data ask.
        video: how many frames of a video are read, and how large; None for the defaults.
    """

    def __init__(
        self,
        image_root: Path,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        exif_rotation: bool = False,
        video: VideoLimits | None = None,
    ) -> None:
        self.image_root, self.columns, self.defaults = image_root, dict(columns or {}), dict(defaults or {})
        self.exif_rotation, self.video = exif_rotation, video or VideoLimits()

    def read(self, rows: Rows, index: int) -> list[tuple[dict[str, Any], str]]:
        """Read a row, one with several phrases for a box as a row for each.

        Returns:
            The row, or rows, in canonical shape, and how messages name each.

        Raises:
            UserError: naming the row, if it cannot be understood.
        """
        row, place = rows[index], rows.place(index)
        for name, column in self.columns.items():
            if column not in row:
                raise UserError(f"{place}: no column {column!r}, which data.columns.{name} names; it has {named(row)}")
            row[name] = row.pop(column)
        row = self.defaults | {key: value for key, value in row.items() if value is not None}
        if wrong := conflict(row):
            raise UserError(f"{place}: {wrong}")
        try:
            try:
                found = _rows(row)
            except SizeNeeded:
                found = _rows(row | self._size(row, place))
        except ValueError as reason:
            raise UserError(f"{place}: {reason}") from None
        if len(found) == 1:
            return [(found[0], place)]
        return [(one, f"{place}, phrase {number}") for number, one in enumerate(found, 1)]

    def _size(self, row: dict[str, Any], place: str) -> dict[str, int]:
        """Find the size that boxes in pixels refer to: that of the row's one image."""
        unboxed = canonical({"problem": "", "answer": "", **{k: row[k] for k in ("image", "images") if k in row}})
        sources = image_sources(unboxed, self.image_root, place)
        if len(sources) != 1:
            raise UserError(f"{place}: its box is in pixels, but it has {len(sources)} images; it must have one")
        with placed(place):
            width, height = image_size(sources[0], self.exif_rotation)
        return {"width": width, "height": height}


def _rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [canonical(one) for one in (phrase_rows(row) if has_phrases(row) else [row])]
