"""Everything the project knows about a problem type, in one object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from lit_g2rpo.rewards.answers.choice import choice
from lit_g2rpo.rewards.answers.geometry import Box
from lit_g2rpo.rewards.answers.points import Point
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rules.tracking import Track

Row = Mapping[str, Any]
Rule = Callable[[str, str, Row, RewardConfig], float]
"""Maps answer, gold answer, row and config to an accuracy from 0 to 1; raises `Unreadable`."""
Drawing = tuple[list[Box], list[Point]]
"""Boxes and points on the 0..1000 grid."""

T = TypeVar("T")
A = TypeVar("A")
G = TypeVar("G")

MAX_GOLDS = 1024
SHORT = 512
LONG = 4096


class Unreadable(Exception):
    """An answer or a gold answer that does not have the form of its problem type; the message is the error code."""


@dataclass(slots=True, frozen=True)
class ProblemType:
    r"""Define how answers of one form are asked for, read, scored and shown.

    Args:
        rule: compares an answer with gold; `compared` builds one from a reader and a rule.
        answer_form: how a prompt asks for the answer, with an example between ``<answer>`` tags that scores 1.
        gold_form: what the gold answer must be, in words.
        limit: longest answer to read, in characters, or twice the gold answer's length if that is more.
        options: a row with options asks for the letter of one, whatever ``rule`` says.
        structured: the answer is JSON, and valid JSON earns credit in the released reward.
        verbatim: compare answer and gold as they stand; otherwise remove a ``\boxed{}`` around either.
        solution: a gold answer may be a whole solution whose last answer block or LaTeX box is the answer.
        references: a gold answer may be a list of texts, any of which is right.
        unreadable: says why a gold answer, compared with another text, does not fit this type; None if it does.
        from_gold: maps a gold answer to an answer that scores 1, where the two differ.
        style: how long such answers should be thought about; the starting point of `calibrate`.
        task: the task of a row that names no task and has an unknown source.
        draw: the part of an answer that the rollout page draws over the image; None for nothing.
        track: reads the boxes per second that the released structure reward counts.
    """

    rule: Rule
    answer_form: str
    gold_form: str
    limit: int = SHORT
    options: bool = False
    structured: bool = False
    verbatim: bool = False
    solution: bool = True
    references: bool = False
    unreadable: Callable[[str], str | None] | None = None
    from_gold: Callable[[str], str] | None = None
    style: Literal["reasoning", "hybrid", "vision"] = "reasoning"
    task: str | None = None
    draw: Callable[[str], Drawing] | None = None
    track: Callable[[str], Track | None] | None = None

    def accuracy(self, answer: str, gold: str, row: Row, config: RewardConfig) -> float:
        """Score an answer from 0 to 1.

        Raises:
            Unreadable: if the answer or gold does not have the form of this type.
        """
        if self.options and row.get("options"):
            right = readable(choice(gold, row["options"]), "bad_gold")
            return float(readable(choice(answer, row["options"])) == right)
        return self.rule(answer, gold, row, config)

    def gold_form_of(self, row: Row) -> str:
        """Describe what the gold answer of a row must be."""
        if self.options and row.get("options"):
            return f"the letter of one of its {len(row['options'])} options"
        return self.gold_form


def compared(
    read: Callable[[str], A | None],
    read_gold: Callable[[str], G | None],
    rule: Callable[[A, G], float],
    *,
    released: Callable[[A, G], float] | None = None,
    dense: Callable[[A, G], float] | None = None,
) -> Rule:
    """Make a rule that reads the answer and gold and compares their values.

    Args:
        read: maps the text of an answer to a value; None if it is unreadable.
        read_gold: the same for a gold answer; each text is read once.
        rule: maps the values of answer and gold to an accuracy from 0 to 1.
        released: replaces ``rule`` in the style of the released reward.
        dense: replaces ``rule`` where partial credit is given.

    Returns:
        The rule.
    """
    # the completions of a group share their gold answer
    gold_value = lru_cache(MAX_GOLDS)(read_gold)

    def by_value(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
        right = readable(gold_value(gold), "bad_gold")
        chosen = rule
        if released is not None and config.style == "onethinker":
            chosen = released
        if dense is not None and config.dense:
            chosen = dense
        return float(chosen(readable(read(answer)), right))

    return by_value


def readable(value: T | None, code: str = "unparsed") -> T:
    """Return what a reader found.

    Raises:
        Unreadable: with the error code, if it found nothing.
    """
    if value is None:
        raise Unreadable(code)
    return value
