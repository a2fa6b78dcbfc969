"""Conversion of MMBench's published table to data rows, one per rotation of the options.

``python -m lit_g2rpo.evaluation.mmbench MMBench_DEV_EN.tsv data/benchmarks/mmbench.jsonl``
"""

import argparse
import base64
import binascii
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import whole
from lit_g2rpo.rewards.answers.choice import LETTERS

ROTATED = 1_000_000
"""First index of rows that repeat a question with rotated options."""

_REFERENCE = 64
"""Most characters of an ``image`` that is the index of the row with the image."""

Table = Mapping[str, Mapping[str, str]]


def convert(table: Path, output: Path) -> int:
    """Write the rows of the table as JSON lines, and its images as files in a folder beside them.

    The rotations are made here from the unrotated rows, so that every question has all of them.

    Args:
        table: tab-separated, with the columns ``index``, ``question``, ``hint``, ``A`` to ``D``, ``answer``, and
            ``image`` in base64.
        output: a new ``.jsonl`` file; images go to ``<name>_images``.

    Returns:
        Number of questions.

    Raises:
        UserError: if the table cannot be read, or the output exists; then nothing is written.
    """
    images = output.with_name(f"{output.stem}_images")
    for path in (output, images):
        if path.exists():
            raise UserError(f"{path} exists; give another name or move it away")
    rows = _read(table)
    questions = [row for index, row in rows.items() if int(index) < ROTATED]
    with whole(output) as lines, whole(images) as folder:
        folder.mkdir()
        with lines.open("w", encoding="utf-8") as file:
            for row in questions:
                place = f"{table}, index {row['index']}"
                content, ending = _image(row, rows, place)
                name = f"{row['index']}.{ending}"
                (folder / name).write_bytes(content)
                for rotated in rotations(row, f"{images.name}/{name}", place):
                    file.write(json.dumps(rotated, ensure_ascii=False) + "\n")
    return len(questions)


def rotations(row: Mapping[str, str], image: str, place: str) -> Iterator[dict[str, Any]]:
    """Make one data row per rotation of a question's options.

    Args:
        row: a row of the table.
        image: path of its image.
        place: names the row in messages.

    Raises:
        UserError: if it has fewer than two options, or its answer is not one of them.
    """
    options = [row[letter] for letter in LETTERS if row.get(letter)]
    right = LETTERS.find(row["answer"].strip()) if row["answer"].strip() else -1
    if len(options) < 2 or not 0 <= right < len(options):
        raise UserError(
            f"{place}: answer {row['answer']!r}, {len(options)} options; the answer must be the letter of one of "
            "two or more (the test split is published without answers)"
        )
    text = "\n".join(filter(None, (row.get("hint"), row["question"])))
    for shift in range(len(options)):
        yield {
            "id": f"{row['index']}-{shift}",
            "problem": f"<image>{text}",
            "images": [image],
            "options": options[-shift:] + options[:-shift] if shift else options,
            "answer": LETTERS[(right + shift) % len(options)],
            "circular_id": row["index"],
            "category": row.get("category", ""),
        }


def _read(table: Path) -> dict[str, dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            needed = {"index", "question", "A", "B", "answer", "image"}
            if missing := needed - set(reader.fieldnames or ()):
                raise UserError(f"{table}: lacks the columns {', '.join(sorted(missing))}; give MMBench's own table")
            rows = {row["index"].strip(): {key: value or "" for key, value in row.items() if key} for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: {error}; give MMBench's tab-separated table") from None
    if not rows or not all(index.isdecimal() for index in rows):
        raise UserError(f"{table}: 'index' must be a whole number in every row")
    return rows


def _image(row: Mapping[str, str], rows: Table, place: str) -> tuple[bytes, str]:
    text = row["image"].strip()
    if len(text) <= _REFERENCE:
        text = rows.get(text, {}).get("image", "").strip()
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(BytesIO(content)) as image:
            return content, (image.format or "img").lower()
    except (binascii.Error, OSError):
        raise UserError(f"{place}: 'image' is no image in base64, and no index of a row that has one") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser("python -m lit_g2rpo.evaluation.mmbench", description="MMBench's table as rows.")
    parser.add_argument("table", type=Path, help="MMBench_DEV_EN.tsv")
    parser.add_argument("output", type=Path, help="new .jsonl file; images go to a folder beside it")
    options = parser.parse_args(arguments)
    try:
        print(f"{options.output}: {convert(options.table, options.output)} questions, each under all rotations")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
