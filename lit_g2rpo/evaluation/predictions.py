"""The file of predictions, written as they arrive so that an interrupted run can continue."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import write_text

NAME = "predictions.jsonl"
FILES = {"test": NAME, "predict": "predictions_predict.jsonl"}
"""The file that each verb writes to the folder of the run."""

Row = dict[str, Any]


def read_predictions(path: Path) -> list[Row]:
    """Read the rows of a file of predictions.

    Raises:
        UserError: if it cannot be read, is empty, or a line is not a prediction.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        row = _row(line)
        if row is None:
            raise UserError(f"{path}, line {number}: is no prediction; give a predictions.jsonl that test wrote")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no predictions")
    return rows


def unfinished(file: Path, settings: dict[str, Any]) -> list[Row]:
    """Read the rows, perhaps none, in the file of an interrupted run; its last line may be incomplete.

    Args:
        settings: the settings with which this run would make its predictions.

    Raises:
        UserError: if the file was made with other settings.
    """
    if not (_settings(file).exists() and file.exists()):
        return []
    begun = json.loads(_settings(file).read_text(encoding="utf-8"))
    settings = json.loads(json.dumps(settings))
    for key in settings.keys() | begun.keys():
        if begun.get(key) != settings.get(key):
            raise UserError(
                f"{file} was begun with {key} {begun.get(key)!r}, this run has {settings.get(key)!r}; "
                "finish it with the same settings, or delete that file to start anew"
            )
    return [row for row in map(_row, _lines(file)) if row is not None]


def begin(file: Path, settings: dict[str, Any], rows: Iterable[Row]) -> TextIO:
    """Open a verb's file for appending, with the rows that an earlier run left.

    Args:
        settings: the settings with which the predictions are made.
    """
    write_text(file, "".join(map(_line, rows)))
    write_text(_settings(file), json.dumps(settings))
    return file.open("a", encoding="utf-8")


def append(file: TextIO, rows: Iterable[Row]) -> None:
    """Write rows and flush them, so that they survive this process."""
    file.writelines(map(_line, rows))
    file.flush()


def finish(file: Path) -> list[Row]:
    """Sort the rows of a run in dataset order without duplicates, mark the run as finished, and return them."""
    by_place: dict[tuple[int, int], Row] = {}
    for row in filter(None, map(_row, _lines(file))):
        by_place.setdefault((row["index"], row["repeat"]), row)
    rows = [by_place[place] for place in sorted(by_place)]
    write_text(file, "".join(map(_line, rows)))
    _settings(file).unlink()
    return rows


def _settings(file: Path) -> Path:
    """Return the file beside unfinished predictions that has their settings."""
    return file.with_name(f".{file.stem}.settings.json")


def _lines(path: Path) -> list[str]:
    try:
        # not splitlines, which also splits at characters that JSON text may contain
        return [line for line in path.read_bytes().decode("utf-8", errors="replace").split("\n") if line]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a predictions.jsonl") from None


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and {"index", "repeat", "id", "task", "completion", "score"} <= row.keys()
    return row if whole else None
