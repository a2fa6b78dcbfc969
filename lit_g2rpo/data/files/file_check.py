"""Checks of whole files of rows: their content, and everything that is wrong with them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from lit_g2rpo.data.files.json_rows import to_prompt
from lit_g2rpo.data.files.readers import Rows, expanded, read_rows
from lit_g2rpo.data.files.row_errors import row_error
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.lengths import expanded_length
from lit_g2rpo.data.media.row_media import media_sizes, open_media, texts_of
from lit_g2rpo.data.messages import TEMPLATE
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.rewards.answers.text import fold
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.gold import demonstration_error, gold_error
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.tasks import Task


@dataclass(slots=True)
class Kind:
    """Rows of one task and problem type.

    Args:
        rows: number of rows.
        images: number of images in them.
        errors: number of rows with an error.
        tokens: length of each prompt with its images, if a policy was given.
    """

    rows: int = 0
    images: int = 0
    errors: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The result of a check.

    Args:
        rows: number of rows, including unreadable ones.
        kinds: the readable rows, by task and problem type.
        errors: for each error its kind and a message that names file and row.
        warnings: the same for rows that are suspicious but can be trained on.
    """

    rows: int = 0
    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "rows": self.rows,
            "kinds": [
                {
                    "task_type": task,
                    "problem_type": problem_type,
                    "rows": kind.rows,
                    "images": kind.images,
                    "rows_with_errors": kind.errors,
                    "longest_prompt": max(kind.tokens, default=None),
                    "mean_prompt": sum(kind.tokens) / len(kind.tokens) if kind.tokens else None,
                }
                for (task, problem_type), kind in sorted(self.kinds.items())
            ],
            "error_counts": dict(Counter(kind for kind, _ in self.errors)),
            "errors": [{"kind": kind, "message": message} for kind, message in self.errors],
            "warnings": [{"kind": kind, "message": message} for kind, message in self.warnings],
        }


@dataclass(slots=True)
class FileCheck:
    """Examine files of rows.

    Args:
        reader: converts the rows to one shape.
        tasks: the tasks a row may have.
        images: decode them in full, only read their headers, or skip them.
        processor: the policy's processor, which measures prompts; None skips lengths.
        max_prompt_tokens: longest prompt, tokens.
        template: wording of the prompts that are measured, as Jinja text.
    """

    reader: RowReader
    tasks: Mapping[str, Task]
    reward: RewardConfig = DEFAULT
    images: Literal["decode", "header", "ignore"] = "decode"
    processor: Any = None
    max_prompt_tokens: int = 16384
    template: str = TEMPLATE

    def run(self, files: Sequence[str]) -> Report:
        """Examine every row of files that ``read_rows`` reads."""
        report = Report()
        seen: dict[bytes, tuple[str, str]] = {}
        for file in _each(files, report):
            try:
                rows = read_rows(file)
            except UserError as error:
                report.errors.append(("file", str(error)))
                continue
            if not len(rows):
                report.errors.append(("file", f"{file}: no rows; give at least one"))
            with Step(f"checking {rows.name}", len(rows), "rows") as step:
                for index in range(len(rows)):
                    self._line(rows, index, report, seen)
                    step.advance()
        return report

    def _line(self, rows: Rows, index: int, report: Report, seen: dict[bytes, tuple[str, str]]) -> None:
        try:
            found = self.reader.read(rows, index)
        except UserError as error:
            report.rows += 1
            report.errors.append(("row", str(error)))
            return
        for row, place in found:
            report.rows += 1
            self._row(row, place, report, seen)

    def _row(self, row: dict[str, Any], place: str, report: Report, seen: dict[bytes, tuple[str, str]]) -> None:
        kind = report.kinds.setdefault((f"{row['task_type']!s:.40}", f"{row['problem_type']!s:.40}"), Kind())
        kind.rows += 1
        kind.images += len(row["images"])
        errors = list(self._errors(row, place, kind))
        kind.errors += bool(errors)
        report.errors += errors
        key = fingerprint(row)
        if key in seen:
            first, answer = seen[key]
            what = "the same row" if answer == row.get("answer") else "the same question with another answer"
            report.warnings.append(("duplicate", f"{place}: {what} as {first}"))
        else:
            seen[key] = place, row.get("answer", "")

    def _errors(self, row: dict[str, Any], place: str, kind: Kind) -> Iterator[tuple[str, str]]:
        if message := row_error(row, self.tasks):
            yield "column", f"{place}: {message}"
        task = row["task_type"]
        built_in = not (isinstance(task, str) and getattr(self.tasks.get(task), "reward", None))
        # an unknown type was reported above
        if built_in and known_problem_type(row["problem_type"]) is not None:
            if "answer" in row and (message := gold_error(row, self.reward)):
                yield "gold", f"{place}: {message}"
            elif message := demonstration_error(row, self.reward):
                yield "demonstration", f"{place}: {message}"
        if self.images == "ignore":
            return
        wrong = row_error(row, self.tasks)
        if row.get("videos") and wrong:
            return
        try:
            if self.images == "decode":
                images, videos = open_media(row, self.reader, place)
                sizes = [image.size for image in images]
                for video in videos:
                    video.read_all()
            else:
                sizes, videos = media_sizes(row, self.reader, place)
        except UserError as error:
            yield "image", str(error)
        else:
            if self.processor is not None and not wrong:
                prompt = to_prompt(row, place, [], self.reward, videos, self.template)
                length = expanded_length(self.processor, prompt, sizes)
                kind.tokens.append(length)
                if length > self.max_prompt_tokens:
                    yield (
                        "length",
                        f"{place}: {length} tokens with its images and videos; {self.max_prompt_tokens} are allowed",
                    )


def _each(files: Sequence[str], report: Report) -> list[str]:
    """Return the files that patterns match; a pattern without a match is an error."""
    found = []
    for file in files:
        try:
            found += expanded([file])
        except UserError as error:
            report.errors.append(("file", str(error)))
    return found


def fingerprint(row: dict[str, Any]) -> bytes:
    """Hash question, options and images of a row in canonical shape to 16 bytes, ignoring blanks."""
    hash = blake2b(digest_size=16)
    for part in (*map(fold, (*texts_of(row), *row["options"])), *row["images"], *row.get("videos", [])):
        part = str(part) if isinstance(part, dict) else part
        if isinstance(part, str):
            part = part.encode(errors="surrogatepass")
        content = part if isinstance(part, bytes) else part.tobytes()
        hash.update(len(content).to_bytes(8, "little") + content)
    return hash.digest()
