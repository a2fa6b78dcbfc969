"""A group of a rollout as Markdown, for loggers that can show text."""

import re

from lit_g2rpo.callbacks.rollouts.record import Record


def group_text(record: Record) -> str:
    """Format a group as Markdown."""
    table = "| # | reward | accuracy | format | advantage | tokens | |\n|---|---|---|---|---|---|---|"
    for number, completion in enumerate(record["completions"]):
        notes = {"truncated": completion["truncated"], "dropped": not completion["valid"]}
        parts = completion["parts"]
        table += (
            f"\n| {number} | {completion['reward']:.3f} | {parts['accuracy']:.3f} | {parts['format']:.3f}"
            f" | {completion['advantage']:+.3f} | {completion['length']}"
            f" | {', '.join(note for note, holds in notes.items() if holds)} |"
        )
    return "\n\n".join(
        [
            f"**{record['task']}** ({record['problem_type']}), `{record['id']}`",
            fenced(record["prompt"]),
            table,
            *(f"{number}:\n\n{fenced(c['text'])}" for number, c in enumerate(record["completions"])),
        ]
    )


def fenced(text: str) -> str:
    """Put text in a Markdown code block, which shows tags verbatim, with a fence that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
