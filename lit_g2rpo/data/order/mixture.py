"""Groups of each task per rollout, if tasks do not get equal shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from typing_extensions import override

from lit_g2rpo.data.order.stream import PromptStream
from lit_g2rpo.errors import UserError

UNIT = 1 << 32
"""Shares are integer multiples of ``1 / UNIT`` of a group, so sums stay exact in runs of any length."""


@dataclass(slots=True, frozen=True)
class Mixture:
    """Set the share of each task in a rollout: by quota, or by weight and number of rows.

    Args:
        quotas: groups of each task per rollout; every task of the data needs one, and they sum to ``rollout.prompts``.
        weights: weight of a task, by default 1; 0 leaves it out.
        alpha: the share of a task is proportional to ``weight x rows ** alpha``: 0 for equal shares, 1 for shares by
            number of rows.

    Raises:
        UserError: if quotas come with weights or alpha, or a number is negative.
    """

    quotas: dict[str, int] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.quotas is not None and (self.weights or self.alpha):
            raise UserError("data.mixture has quotas and weights or alpha; give the one or the other")
        numbers: dict[str, float] = {f"quotas.{task}": quota for task, quota in (self.quotas or {}).items()}
        numbers |= {f"weights.{task}": weight for task, weight in self.weights.items()} | {"alpha": self.alpha}
        for key, value in numbers.items():
            if not 0 <= value < float("inf"):
                raise UserError(f"data.mixture.{key} is {value}; it must be 0 or more")

    def expected(self, sizes: Mapping[str, int], prompts: int) -> dict[str, int]:
        """Compute the average number of groups of each task per rollout.

        Args:
            sizes: rows of each task.
            prompts: prompts per rollout.

        Returns:
            Groups by task, in multiples of ``1 / UNIT``, that sum to ``prompts``.

        Raises:
            UserError: if quotas or weights do not match the tasks, or all weights are 0.
        """
        named = self.weights if self.quotas is None else self.quotas
        kind = "weights" if self.quotas is None else "quotas"
        for task in named:
            if task not in sizes:
                raise UserError(f"data.mixture.{kind}.{task}: the data has no such task; it has {', '.join(sizes)}")
        if self.quotas is not None:
            for task in sizes:
                if task not in self.quotas:
                    raise UserError(
                        f"data.mixture.quotas has none for task {task} of the data; give one, 0 leaves it out"
                    )
            if sum(self.quotas.values()) != prompts:
                total = sum(self.quotas.values())
                raise UserError(
                    f"data.mixture.quotas add up to {total}; they must add up to rollout.prompts, {prompts}"
                )
            return {task: self.quotas[task] * UNIT for task in sizes}
        # fractions, because floating-point shares might not sum to the total
        shares = [Fraction(self.weights.get(task, 1.0) * rows**self.alpha) for task, rows in sizes.items()]
        if not sum(shares):
            raise UserError("data.mixture.weights are all 0; give at least one task a weight")
        groups = largest_remainder([share / sum(shares) * prompts * UNIT for share in shares], prompts * UNIT)
        return dict(zip(sizes, groups, strict=True))


def largest_remainder(amounts: Sequence[Fraction], total: int) -> list[int]:
    """Round non-negative amounts that sum to ``total``: first down, then up where the remainder is largest."""
    counts = [int(amount) for amount in amounts]
    order = sorted(range(len(amounts)), key=lambda i: (counts[i] - amounts[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


class MixedStream(PromptStream):
    """Deal tasks by their shares, with at least two groups of each task in a rollout.

    Fractions of groups carry over to the next rollout, so shares are exact in the long run; a task that is owed less
    than two groups waits until it is owed two. A rollout lists one task after the other, so ranks that take every
    ``w``-th row get equally many of each, up to one.

    Args:
        task_names: task of each dataset row.
        seed: seed of the orders.
        prompts: prompts per rollout.

    Raises:
        UserError: if the mixture does not match the data.
    """

    def __init__(self, task_names: Sequence[str], seed: int, mixture: Mixture, prompts: int) -> None:
        super().__init__(task_names, seed)
        self.prompts = prompts
        self.expected = list(mixture.expected(self.sizes, prompts).values())
        self._paired = mixture.quotas is None
        # groups of each task before each rollout, as far as computed
        self._before: list[list[int]] = [[0] * len(self.tasks)]

    @override
    def draws(self, start: int, count: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while len(found) < count:
            number, place = divmod(start + len(found), self.prompts)
            before, after = self._until(number), self._until(number + 1)
            rollout = [(t, i) for t, a, b in zip(self.tasks, before, after, strict=True) for i in range(a, b)]
            found += rollout[place : place + count - len(found)]
        return found

    @override
    def dealt(self, task: str, position: int) -> int:
        number, place = divmod(position, self.prompts)
        within = self.draws(number * self.prompts, place)
        return self._until(number)[self.tasks.index(task)] + sum(name == task for name, _ in within)

    def _until(self, number: int) -> list[int]:
        while len(self._before) <= number:
            before, turn = self._before[-1], len(self._before)
            owed = [turn * share - had * UNIT for share, had in zip(self.expected, before, strict=True)]
            counts = whole_groups(owed, self.prompts, self._paired)
            self._before.append([had + count for had, count in zip(before, counts, strict=True)])
        return self._before[number]


def whole_groups(owed: Sequence[int], prompts: int, paired: bool) -> list[int]:
    """Convert the groups owed to tasks into groups of one rollout, largest remainder first.

    Args:
        owed: groups owed to each task, in multiples of ``1 / UNIT``; negative for a task that had too many.
        prompts: groups of the rollout.
        paired: give a task either no group or at least two.

    Returns:
        Groups of each task, ``prompts`` in total.
    """
    counts = [max(amount, 0) // UNIT for amount in owed]
    if sum(counts) > prompts:
        counts = [0] * len(owed)

    def most_owed(tasks: Sequence[int]) -> int:
        return max(tasks, key=lambda i: (owed[i] - counts[i] * UNIT, -i))

    for _ in range(prompts - sum(counts)):
        counts[most_owed(range(len(owed)))] += 1
    single = [i for i, count in enumerate(counts) if count == 1]
    if not paired or not single or prompts == 1:
        return counts
    for i in single:
        counts[i] = 0
    for _ in range(len(single) // 2):
        counts[most_owed([i for i in single if not counts[i]])] = 2
    if len(single) % 2:
        counts[most_owed([i for i, count in enumerate(counts) if count])] += 1
    return counts
