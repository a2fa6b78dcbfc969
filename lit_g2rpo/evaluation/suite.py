"""A suite's way of reading an answer: the text that it sees, its rule, and its judge."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_g2rpo.rewards.answers.parse import envelope
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig

Rule = Callable[[str, Mapping[str, Any]], float | None]
"""Maps text and data row to a number from 0 to 1, or None for an unreadable text; ValueError if the row has no gold."""

Talk = Generator[str, str, float | None]
"""Yields requests to a judge, one at a time, and receives its replies; returns what a `Rule` does."""

_END_OF_THOUGHT = "</think>"


@dataclass(slots=True, frozen=True)
class Suite:
    """Define how an evaluation suite reads a benchmark's answers.

    Args:
        source: the suite, its version and file.
        read: the suite's rule.
        talk: requests to a judge about text and data row if the suite's rule reads nothing; ValueError for a useless
            reply. None if no judge is used.
        judged: True if the figure requires a judge.
    """

    source: str
    read: Rule
    talk: Callable[[str, Mapping[str, Any]], Talk] | None = None
    judged: bool = False


def suite_text(completion: str, config: RewardConfig = DEFAULT) -> str:
    """Return the text that a suite reads: the answer block, else everything after the reasoning.

    The reasoning ends with the run's own tag, or with ``</think>``, which both suites know.

    Args:
        config: supplies the tags.
    """
    parts = envelope(completion, config.thinking_tag, config.answer_tag)
    text = parts.tail if parts.answer is None else parts.answer
    return text.rpartition(_END_OF_THOUGHT)[2].strip()
