"""``compare``: compare runs over seeds in tables, a file for programs, and a page."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from lit_g2rpo.cli.arguments import VerbParser
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable, write_text

DESCRIPTION = """\
Group runs by the differences in their recipes other than seeds, and compare the groups: means over seeds with 95 %
intervals, differences paired by seed, and the cost of each run. Print tables; write compare.json and compare.html."""


def main(arguments: Sequence[str]) -> None:
    """Compare runs, which may still be running.

    Raises:
        UserError: if a word does not match any run, no run can be read, or an option names something that does not
            exist.
    """
    parser = VerbParser("python -m lit_g2rpo compare", description=DESCRIPTION)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run or of several, pattern of folders, or name of an experiment in runs",
    )
    parser.add_argument("--metric", help="metric that the tables are about (default: val/accuracy)")
    parser.add_argument(
        "--target", type=finite, help="value of it that costs are counted to (default: where the baseline ends)"
    )
    parser.add_argument(
        "--at",
        type=rollout,
        help="rollout to compare at; shorter runs are left out (default: what half of the groups have)",
    )
    parser.add_argument("--baseline", help="number or name of the group to compare with (default: the first)")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="KEY",
        help="key that makes no group, such as schedule.rollouts or 'trainer.*'; may be repeated",
    )
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder to write (default: comparison)")
    options = parser.parse_args(arguments)
    output: Path = options.output
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; give a folder")
    check_writable(output / "compare.json")

    # imported here to keep --help fast
    from lit_g2rpo.comparison.compare import Options, compare
    from lit_g2rpo.comparison.finding import find_runs
    from lit_g2rpo.comparison.page import page
    from lit_g2rpo.comparison.report import report
    from lit_g2rpo.comparison.tables import show

    folders, again = find_runs(options.runs)
    by = Options(options.metric, options.target, options.at, options.baseline, tuple(options.ignore))
    found = compare(folders, by)
    if again:
        found.notes.append(f"{again} runs were named more than once, and count once")
    text = json.dumps(report(found), separators=(",", ":"), allow_nan=False)
    write_text(output / "compare.json", f"{text}\n")
    write_text(output / "compare.html", page(found, output))
    show(found)
    print(f"{output / 'compare.html'}: the curves; {output / 'compare.json'}: all figures")


def finite(text: str) -> float:
    """Read a number that is neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; give one such as 0.7")
    return value


def rollout(text: str) -> int:
    """Read a number of rollouts, which may be 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of rollouts")
    return int(text)
