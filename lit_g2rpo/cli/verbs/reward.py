"""``reward test``: score a file of completions and show the components, before any training."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from lit_g2rpo.cli.arguments import VerbParser, new_file
from lit_g2rpo.errors import UserError

SHOWN = 50
ROW_FAULTS = ("bad_gold", "no_gold", "bad_row", "unknown_problem_type", "no_reward")
"""Errors that concern the row, whatever the completion."""
WIDTH = 140
"""Width of the table without a terminal, columns."""


def main(arguments: Sequence[str]) -> None:
    """Run ``reward test``.

    Raises:
        UserError: for a mistake on the command line, rows that cannot be read, a reward that fails, or gold answers
            that do not score 1.
    """
    whole = VerbParser("python -m lit_g2rpo reward", description="Try rewards.")
    verbs = whole.add_subparsers(required=True, metavar="test")
    verb = verbs.add_parser(
        "test",
        help="score a file of completions and show the parts",
        description="Score a file of completions and show the parts. Each row is a data row of any accepted format "
        "with a 'completion', or a list of 'completions'; a file without them scores its gold answers.",
    )
    verb.add_argument("file", metavar="FILE", help=".jsonl (an object per line) or .json (one array)")
    verb.add_argument("--reward", metavar="PATH", help="reward of your own: my_module.my_function or file.py:function")
    verb.add_argument("--in_process", action="store_true", help="as data.tasks.<task>.in_process")
    verb.add_argument("--style", choices=("strict", "onethinker"), default="strict", help="as model.reward.style")
    verb.add_argument("--thinking_tag", default="thinking", metavar="TAG", help="as model.reward.thinking_tag")
    verb.add_argument("--answer_tag", default="answer", metavar="TAG", help="as model.reward.answer_tag")
    verb.add_argument("--json", type=new_file, metavar="OUT", help="write every score as JSON")
    verb.set_defaults(run=test)
    options = whole.parse_args(list(arguments))
    options.run(options)


def test(options: argparse.Namespace) -> None:
    """Score a file and print the results.

    Raises:
        UserError: as ``main``.
    """
    from lit_g2rpo.hardware.steps import Step
    from lit_g2rpo.rewards.answers.parse import envelope
    from lit_g2rpo.rewards.config import RewardConfig
    from lit_g2rpo.rewards.running.adapters import Batch, gold
    from lit_g2rpo.rewards.running.scorer import Scorer

    config = RewardConfig(options.thinking_tag, options.answer_tag, options.style)
    cases, unreadable, of_gold = read_cases(options.file, config)
    tasks = [case["sample"].get("task_type") or "none" for case in cases]
    functions = dict.fromkeys(tasks, options.reward) if options.reward else {}
    scorer = Scorer(config, functions, in_process=tasks if options.in_process else (), key="--reward")
    completions, samples = [case["completion"] for case in cases], [case["sample"] for case in cases]
    prompts = [sample["problem"] for sample in samples]
    with Step(f"scoring {len(cases):,} completions"):
        results = scorer.score(Batch(completions, samples, tasks, prompts))
    scorer.close()
    rows = [
        {
            "place": case["place"], "problem_type": case["sample"]["problem_type"], "completion": case["completion"],
            "answer": envelope(case["completion"], config.thinking_tag, config.answer_tag).answer,
            "gold": gold(case["sample"]), "total": result.total, "accuracy": result.accuracy,
            "format": result.format, "structure": result.structure, "components": result.components,
            "error": result.error, "seconds": result.seconds,
        }
        for case, result in zip(cases, results, strict=True)
    ]  # fmt: skip
    summary = summarise(rows)
    if options.json:
        report = {"file": options.file, "rows": rows, "summary": summary, "unreadable": unreadable}
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    show(rows, summary)
    for line in unreadable:
        print(f"unreadable: {line}")
    if unreadable:
        raise UserError(f"{options.file}: {len(unreadable)} rows cannot be read, the first: {unreadable[0]}")
    if scorer.failures:
        raise UserError(f"the reward failed for {scorer.failures} of {len(rows)} completions; {scorer.last_failure}")
    faults = [row for row in rows if row["error"] in ROW_FAULTS and not of_gold]
    if faults:
        what = f"{len(faults)} of {len(rows)} completions belong to rows that cannot be scored"
        raise UserError(f"{what}; {faults[0]['place']}: {faults[0]['error']}; data check says more")
    wrong = [row["place"] for row in rows if row["accuracy"] < 1]
    if of_gold and wrong and not options.reward:
        raise UserError(f"{len(wrong)} of {len(rows)} gold answers do not score 1 against themselves, first {wrong[0]}")


def read_cases(path: str, config: Any) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Read the completions to score.

    Returns:
        A case per completion (``place``, ``sample``, ``completion``), a line per row that cannot be read, and True if
        the file has no completions, so that its gold answers are scored instead.

    Raises:
        UserError: if the file cannot be read at all, or is empty.
    """
    from lit_g2rpo.data.files.readers import read_rows
    from lit_g2rpo.rewards.gold import gold_completion
    from lit_g2rpo.rewards.rows.canonical import canonical

    rows = read_rows(path)
    samples: list[dict[str, Any] | str] = []
    for i in range(len(rows)):
        try:
            samples.append(canonical(rows[i]))
        except UserError as error:
            samples.append(str(error))
        except ValueError as error:
            samples.append(f"{rows.place(i)}: {error}")
    if not samples:
        raise UserError(f"{path}: has no rows; give one per completion")
    of_gold = not any(
        "completion" in sample or "completions" in sample for sample in samples if isinstance(sample, dict)
    )
    cases = []
    unreadable = []
    for i, sample in enumerate(samples):
        if isinstance(sample, str):
            unreadable.append(sample)
            continue
        column = "completion" if "completion" in sample else "completions"
        if of_gold and "answer" not in sample:
            unreadable.append(f"{rows.place(i)}: has neither a completion nor an answer; give one in 'completion'")
            continue
        found = gold_completion(sample, config) if of_gold else sample.get(column)
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            what = f"{column!r} is {str(found)[:60]!r}"
            unreadable.append(f"{rows.place(i)}: {what}; it must be a text or a list of texts")
            continue
        cases += [{"place": rows.place(i), "sample": sample, "completion": text} for text in texts]
    return cases, unreadable, of_gold


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average scored completions per problem type, in order of appearance."""
    out = []
    for kind in dict.fromkeys(row["problem_type"] for row in rows):
        part = [row for row in rows if row["problem_type"] == kind]
        means = {name: sum(row[name] for row in part) / len(part) for name in ("total", "accuracy", "format")}
        errors = sum(row["error"] is not None for row in part)
        seconds = sum(row["seconds"] for row in part)
        out.append({"problem_type": kind, "completions": len(part), **means, "errors": errors, "seconds": seconds})
    return out


def show(rows: list[dict[str, Any]], summary: list[dict[str, Any]]) -> None:
    """Print the scores and their means."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    parts = ["total", "accuracy", "format"] + (["structure"] if any(row["structure"] for row in rows) else [])
    table = Table("row", "problem type", box=box.SIMPLE_HEAD)
    for name in (*parts, "ms"):
        table.add_column(name, justify="right")
    table.add_column("error")
    for name in ("answer", "gold"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=32)
    for row in rows[:SHOWN]:
        figures = [f"{row[name]:.3f}" for name in parts] + [f"{1000 * row['seconds']:.1f}"]
        # as plain text, since an answer may look like markup, and on one line
        texts = [" ".join(str(row[name] or "").split()) for name in ("error", "answer", "gold")]
        table.add_row(row["place"].rpartition(", ")[2], str(row["problem_type"]), *figures, *map(Text, texts))
    console.print(table)
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} more completions; --json OUT writes all of them")
    means = Table("problem type", box=box.SIMPLE_HEAD)
    for name in ("completions", "total", "accuracy", "format", "errors", "s"):
        means.add_column(name, justify="right")
    for entry in summary:
        figures = [f"{entry[name]:.3f}" for name in ("total", "accuracy", "format")]
        tail = [str(entry["errors"]), f"{entry['seconds']:.3f}"]
        means.add_row(str(entry["problem_type"]), str(entry["completions"]), *figures, *tail)
    console.print(means)
