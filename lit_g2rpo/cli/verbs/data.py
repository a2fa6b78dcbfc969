"""``data check`` and ``data convert``: examine files of rows, and convert them to the project's own format."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_g2rpo.cli.arguments import VerbParser, new_file, positive
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable

if TYPE_CHECKING:
    from lit_g2rpo.data.files.row_reader import RowReader

SHOWN = 5
"""Maximum number of messages to print for each kind of error."""


def main(arguments: Sequence[str]) -> None:
    """Run ``data check`` or ``data convert``.

    Raises:
        UserError: for a mistake on the command line, or rows with errors.
    """
    options = parser().parse_args(list(arguments))
    options.run(options)


def parser() -> argparse.ArgumentParser:
    """Build the parser of both verbs."""
    whole = VerbParser("python -m lit_g2rpo data", description="Examine and convert files of rows.")
    verbs = whole.add_subparsers(required=True, metavar="check|convert")
    common = VerbParser(add_help=False)
    common.add_argument("--image_root", type=Path, metavar="DIR", help="folder that image paths are relative to")
    common.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help="what the file calls a column"
    )
    common.add_argument(
        "--default", action="append", default=[], metavar="NAME=VALUE", help="value of a column where a row has none"
    )
    common.add_argument(
        "--turns",
        choices=("all", "question"),
        default="all",
        help="keep system turns and those before the question (default), or leave them out",
    )
    check_verb = verbs.add_parser("check", parents=[common], help="find what is wrong with rows, before training")
    check_verb.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".jsonl, .json, .tsv, .csv, .parquet, a pattern of them, or owner/name@split",
    )
    check_verb.add_argument("--task", action="append", default=[], metavar="NAME", help="a task besides the paper's")
    check_verb.add_argument(
        "--images",
        choices=("decode", "header", "ignore"),
        default="decode",
        help="decode images in full (default), only read their headers, or leave them alone",
    )
    check_verb.add_argument("--policy", metavar="PATH", help="measure prompts as this policy's processor expands them")
    check_verb.add_argument("--min_pixels", type=positive, metavar="N", help="as model.policy.min_pixels")
    check_verb.add_argument("--max_pixels", type=positive, metavar="N", help="as model.policy.max_pixels")
    check_verb.add_argument(
        "--max_prompt_tokens", type=positive, default=16384, metavar="N", help="longest prompt (16384)"
    )
    check_verb.add_argument("--json", type=new_file, metavar="OUT", help="write everything found as JSON")
    check_verb.set_defaults(run=check)
    convert_verb = verbs.add_parser("convert", parents=[common], help="write rows of any format in the project's own")
    convert_verb.add_argument("files", nargs="+", metavar="FILE", help="what to read")
    convert_verb.add_argument("output", type=Path, metavar="OUT.jsonl", help="file to write; must be new")
    convert_verb.set_defaults(run=convert)
    return whole


def check(options: argparse.Namespace) -> None:
    """Examine files, and print their contents and errors.

    Raises:
        UserError: if there are errors.
    """
    from lit_g2rpo.data.files.file_check import FileCheck
    from lit_g2rpo.data.messages import TEMPLATE
    from lit_g2rpo.tasks import Task, paper_tasks

    tasks = paper_tasks() | {name: Task(name) for name in options.task}
    whole = FileCheck(reader(options), tasks, images=options.images, max_prompt_tokens=options.max_prompt_tokens)
    if options.policy:
        if options.images == "ignore":
            raise UserError("--policy measures prompts with their images; leave out --images ignore")
        from lit_g2rpo.policy.wording import prompt_template_of

        whole.processor = processor(options)
        whole.template = prompt_template_of(options.policy) or TEMPLATE
    report = whole.run(options.files)
    if options.json:
        options.json.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
    show(report.as_dict())
    if count := len(report.errors):
        raise UserError(f"{count} error{'s' * (count > 1)} in {report.rows} rows")
    print(f"{report.rows} rows, no errors")


def processor(options: argparse.Namespace) -> Any:
    """Load the processor of a policy without its weights.

    Raises:
        UserError: if there is none.
    """
    from lit_g2rpo.policy.loading import resolve_path
    from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor

    try:
        found = ImageOnlyQwen3VLProcessor.from_pretrained(resolve_path(options.policy))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--policy {options.policy} has no Qwen3-VL processor that can be loaded: {reason}") from None
    limits = {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}
    given = {key: value for key, value in limits.items() if value is not None}
    found.image_processor.size = dict(found.image_processor.size) | given
    return found


def show(report: dict[str, Any]) -> None:
    """Print a report, given as plain data."""
    figures = {"rows": "rows", "images": "images", "rows_with_errors": "with errors"}
    if any(kind["mean_prompt"] is not None for kind in report["kinds"]):
        figures |= {"mean_prompt": "mean tokens", "longest_prompt": "most tokens"}
    lines = [["task", "problem type", *figures.values()]]
    for kind in report["kinds"]:
        cells = ["-" if kind[key] is None else f"{kind[key]:.0f}" for key in figures]
        lines.append([kind["task_type"], kind["problem_type"], *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        print("  ".join(left + [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]))
    for name in ("error", "warning"):
        found: dict[str, list[str]] = {}
        for entry in report[f"{name}s"]:
            found.setdefault(entry["kind"], []).append(entry["message"])
        for kind, messages in found.items():
            print(f"\n{len(messages)} {name}{'s' * (len(messages) > 1)} of kind {kind}:")
            for message in messages[:SHOWN]:
                print(f"  {message}")
            if len(messages) > SHOWN:
                print(f"  and {len(messages) - SHOWN} more, which --json OUT lists")
    print()


def convert(options: argparse.Namespace) -> None:
    """Write the rows of files in the project's format.

    Raises:
        UserError: if a row cannot be understood, or the output exists.
    """
    from lit_g2rpo.data.files.conversion import convert as write

    check_writable(options.output)
    root = options.image_root or options.output.parent
    rows, images, videos = write(options.files, options.output, reader(options, root))
    saved = ", ".join(f"{number} {what}" for number, what in ((images, "images"), (videos, "videos")) if number)
    print(f"{options.output}: {rows} rows" + (f", {saved}; data.image_root: {root}" if saved else ""))


def reader(options: argparse.Namespace, root: Path = Path()) -> "RowReader":
    """Build the reader of the rows.

    Args:
        root: folder of the images if the command line names none.

    Raises:
        UserError: if the folder does not exist, or a pair has no ``=``.
    """
    from lit_g2rpo.data.files.row_reader import RowReader

    root = options.image_root or root
    if not root.is_dir():
        raise UserError(f"--image_root {root} is not a folder; give the folder of the images")
    return RowReader(root, pairs("--column", options.column), pairs("--default", options.default), turns=options.turns)


def pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """Split each word at its first ``=`` into key and value.

    Raises:
        UserError: for a word without ``=``.
    """
    for word in words:
        if not word.partition("=")[1]:
            raise UserError(f"{option} {word}: give NAME=..., such as {option} task_type=ocr")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}
