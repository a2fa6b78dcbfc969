"""Definition of a benchmark: its rule, its suite's reading of answers, and how its figure is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_g2rpo.evaluation.suite import Rule, Suite
from lit_g2rpo.rewards.answers.parse import unbox


@dataclass(slots=True, frozen=True)
class Benchmark:
    """Define how a benchmark is scored and reported.

    Args:
        title: its name in print.
        metric: name of its figure.
        rule: maps answer and row to a number from 0 to 1, or None; see ``rules``.
        words: the rule in words.
        source: where its files come from.
        suite: how the suite that publishes its figures reads free text; None if none does.
        columns: columns that the rule needs besides those of every row.
        subsets: a column and its values, each of which gets a separate mean.
        hit_at: the figure counts values of at least this; None averages the values.
        recalls: more thresholds at which the fraction of hits is reported.
        circular: column that identifies the question of a rotated row; a question is right if all its rows are.
    """

    title: str
    metric: str
    rule: Rule
    words: str
    source: str
    suite: Suite | None = None
    columns: tuple[str, ...] = ()
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hit_at: float | None = None
    recalls: tuple[float, ...] = ()
    circular: str | None = None

    @property
    def stands_in(self) -> bool:
        """Return whether the rule stands in for the judge of the benchmark's protocol."""
        return self.suite is not None and self.suite.talk is not None

    def value(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Compare an answer with a row; None if the answer cannot be read.

        Args:
            answer: text of the answer block; a LaTeX box around it is removed.

        Raises:
            ValueError: if the row lacks what the rule needs.
        """
        return self.rule(unbox(answer), row)

    def score(self, value: float | None) -> float:
        """Convert a value to the number, from 0 to 1, that the figure averages."""
        return float((value or 0.0) >= self.hit_at) if self.hit_at is not None else value or 0.0
