"""A suite's way to read an answer: the text that it sees, its rule, and its judge."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_g2rpo.rewards.answers.parse import envelope
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig

Rule = Callable[[str, Mapping[str, Any]], float | None]
"""Text and data row to a number from 0 to 1, or None if the text cannot be read; ValueError for a row without gold."""

Talk = Generator[str, str, float | None]
"""What is asked of a judge, one request at a time, for its replies; returns what a `Rule` does."""

_END_OF_THOUGHT = "</think>"


@dataclass(slots=True, frozen=True)
class Suite:
    """How an evaluation suite reads a benchmark's answers.

    Args:
        source: the suite, its version and file.
        read: the suite's rule.
        talk: what is asked of a judge, of text and data row, where the suite's rule reads nothing; ValueError for a
            reply that is of no use. None if no judge is asked.
        judged: True if only a judge makes a figure of it; without one there is none.
    """

    source: str
    read: Rule
    talk: Callable[[str, Mapping[str, Any]], Talk] | None = None
    judged: bool = False


def suite_text(completion: str, config: RewardConfig = DEFAULT) -> str:
    """Return the text that a suite is given: the answer block, else all that stands behind the reasoning.

    The reasoning ends with the run's own tag, or with ``</think>``, which both suites know.

    Args:
        config: names of the tags.
    """
    parts = envelope(completion, config.thinking_tag, config.answer_tag)
    text = parts.tail if parts.answer is None else parts.answer
    return text.rpartition(_END_OF_THOUGHT)[2].strip()
