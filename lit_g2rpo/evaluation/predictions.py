"""The file of predictions: written as they come, so that a run that was killed goes on where it was."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import write_text

NAME = "predictions.jsonl"
FILES = {"test": NAME, "predict": "predictions_predict.jsonl"}
"""The file that each verb writes into the folder of the run."""

Row = dict[str, Any]


def read_predictions(path: Path) -> list[Row]:
    """Read the rows of a file of predictions.

    Raises:
        UserError: if it cannot be read, is empty, or a line is not such a row.
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
    """Read the rows, perhaps none, that a run that was killed left in its file; the last line may be torn.

    Args:
        settings: what this run would make its predictions with.

    Raises:
        UserError: if it was made with other settings.
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
        settings: what the predictions are made with.
    """
    write_text(file, "".join(map(_line, rows)))
    write_text(_settings(file), json.dumps(settings))
    return file.open("a", encoding="utf-8")


def append(file: TextIO, rows: Iterable[Row]) -> None:
    """Write rows and hand them to the system, so that they outlive this process."""
    file.writelines(map(_line, rows))
    file.flush()


def finish(file: Path) -> list[Row]:
    """Put the rows of a run in the order of the dataset, each once, mark it as ended, and return them."""
    by_place: dict[tuple[int, int], Row] = {}
    for row in filter(None, map(_row, _lines(file))):
        by_place.setdefault((row["index"], row["repeat"]), row)
    rows = [by_place[place] for place in sorted(by_place)]
    write_text(file, "".join(map(_line, rows)))
    _settings(file).unlink()
    return rows


def _settings(file: Path) -> Path:
    """Beside the predictions of a run that has not ended: what they are made with."""
    return file.with_name(f".{file.stem}.settings.json")


def _lines(path: Path) -> list[str]:
    try:
        # not splitlines, which also cuts at characters that a JSON text may hold
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
