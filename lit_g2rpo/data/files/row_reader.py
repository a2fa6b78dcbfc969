"""Reader that converts data rows of any accepted format to one shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lit_g2rpo.data.files.readers import Rows
from lit_g2rpo.data.files.unread import unread_images, unread_options
from lit_g2rpo.data.media.image_paths import image_sources
from lit_g2rpo.data.media.images import image_size, placed
from lit_g2rpo.data.media.row_media import texts_of
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import VideoLimits
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO, canonical
from lit_g2rpo.rewards.rows.conflicts import conflict
from lit_g2rpo.rewards.rows.phrases import has_phrases, phrase_rows
from lit_g2rpo.rewards.rows.scales import SizeNeeded
from lit_g2rpo.rewards.rows.values import listed, missing, named

GOLD = {"answer", "solution", "reward_model", "ground_truth", "bbox", "bbox_2d", "objects", "sentences"}
"""Columns whose boxes may need the size of an image."""


class RowReader:
    """Read rows of any accepted format into one shape.

    Args:
        image_root: folder that image paths are relative to.
        columns: maps the expected name of a column to its name in the file, such as ``{"problem": "query_text"}``; dots
            lead into objects, names joined by commas make one list, an empty name leaves images out.
        defaults: values for missing columns, such as ``{"task_type": "ocr"}``.
        exif_rotation: rotate images as their EXIF data says.
        video: number and size of the frames read from a video; None for the checkpoint's own.
        turns: keep system turns and those before the question, or ask only the question.
    """

    def __init__(
        self,
        image_root: Path,
        columns: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
        exif_rotation: bool = False,
        video: VideoLimits | None = None,
        turns: Literal["all", "question"] = "all",
    ) -> None:
        self.image_root, self.columns, self.defaults = image_root, dict(columns or {}), dict(defaults or {})
        self.exif_rotation, self.video, self.turns = exif_rotation, video or VideoLimits(), turns

    def read(self, rows: Rows, index: int) -> list[tuple[dict[str, Any], str]]:
        """Read a row; one with several phrases for a box gives one row per phrase.

        Returns:
            The row, or rows, in canonical shape, and how messages name each.

        Raises:
            UserError: naming the row, if it cannot be understood.
        """
        row, place = rows[index], rows.place(index)
        for name, columns in self.columns.items():
            if not columns and name != "images":
                raise UserError(f"data.columns.{name} is empty; give the column that holds it")
            values = [self._taken(row, column, name, place) for column in columns.split(",") if column]
            value = values[0] if len(values) == 1 else [one for some in values for one in _several(some)]
            if name == "images" and columns:
                # not this project's own column: its questions need not mark where images go
                row.pop(name, None)
                name = "image"
            row[name] = value
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
        if self.columns.get("images") != "" and (unread := unread_images(found[0])):
            raise UserError(f"{place}: {unread}")
        if unread := unread_options(found[0]):
            raise UserError(f"{place}: {unread}")
        if self.turns == "question":
            found = [_alone(one) for one in found]
        if len(found) == 1:
            return [(found[0], place)]
        return [(one, f"{place}, phrase {number}") for number, one in enumerate(found, 1)]

    @staticmethod
    def _taken(row: dict[str, Any], column: str, name: str, place: str) -> Any:
        if column in row:
            return row.pop(column)
        value: Any = row
        for key in column.split("."):
            value = from_text(value)
            if not isinstance(value, dict) or key not in value:
                raise UserError(f"{place}: no column {column!r}, which data.columns.{name} names; it has {named(row)}")
            value = value[key]
        return value

    def _size(self, row: dict[str, Any], place: str) -> dict[str, int]:
        """Find the size that boxes in pixels refer to: that of the row's only image, or of the one that it names."""
        unboxed = canonical({key: value for key, value in row.items() if key not in GOLD} | {"problem_type": "math"})
        sources = image_sources(unboxed, self.image_root, place)
        objects = from_text(row.get("objects"))
        said = _several(objects.get("image_id")) if isinstance(objects, dict) else []
        number = said[0] if said else 0
        if number not in range(len(sources)) or (len(sources) > 1 and not said) or said != [number] * len(said):
            raise UserError(f"{place}: its box is in pixels, but it has {len(sources)} images; it must have one")
        with placed(place):
            width, height = image_size(sources[number], self.exif_rotation)
        return {"width": width, "height": height}


def _several(value: Any) -> list[Any]:
    value = listed(from_text(value))
    return value if isinstance(value, list) else [] if missing(value) else [value]


def _alone(row: dict[str, Any]) -> dict[str, Any]:
    """Drop the turns before the question, and put their images before it."""
    *before, question = texts_of(row)
    marks = "".join(mark * sum(text.count(mark) for text in before) for mark in (IMAGE, VIDEO))
    return {key: value for key, value in row.items() if key != "earlier_turns"} | {"problem": marks + question}


def _rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [canonical(one) for one in (phrase_rows(row) if has_phrases(row) else [row])]
