"""The endless order of prompts: a pure function of a seed and a position."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from lit_g2rpo.errors import UserError


class PromptStream:
    """Deal the rows of a dataset out for ever, the tasks in turn.

    Each round of as many positions as there are tasks holds every task once, and each round begins one task later than
    the last, so that ranks that take every ``w``-th position all meet all tasks. Within a task every row comes once per
    pass, each pass in a new order. Nothing is remembered but the current order of each task.

    Args:
        task_names: task of each dataset row.
        seed: seed of the orders.

    Raises:
        UserError: if there is no row.
    """

    def __init__(self, task_names: Sequence[str], seed: int) -> None:
        if not task_names:
            raise UserError("the training data has no rows; give at least one prompt")
        self.seed = seed
        self._rows: dict[str, array[int]] = {}
        for row, name in enumerate(task_names):
            self._rows.setdefault(name, array("q")).append(row)
        self.tasks = tuple(sorted(self._rows))
        self.sizes = {task: len(self._rows[task]) for task in self.tasks}
        self._orders: dict[str, tuple[int, array[int]]] = {}

    def rows(self, start: int, count: int, shift: Mapping[str, int] | None = None) -> list[int]:
        """Find the dataset rows at ``count`` positions from ``start`` on.

        Args:
            start: first position, from 0.
            shift: rows of each task that were drawn besides and are passed over.
        """
        shift = shift or {}
        return [self.row(task, number + shift.get(task, 0)) for task, number in self.draws(start, count)]

    def draws(self, start: int, count: int) -> list[tuple[str, int]]:
        """Say which task each of ``count`` positions from ``start`` on deals, and how many times it has been dealt."""
        found = []
        for position in range(start, start + count):
            turn, place = divmod(position, len(self.tasks))
            found.append((self.tasks[(place + turn) % len(self.tasks)], turn))
        return found

    def dealt(self, task: str, position: int) -> int:
        """Count the draws of a task before a position."""
        turn, place = divmod(position, len(self.tasks))
        return turn + ((self.tasks.index(task) - turn) % len(self.tasks) < place)

    def row(self, task: str, number: int) -> int:
        """Find the dataset row of a draw by its number among those of the task, from 0."""
        rows = self._rows[task]
        turn, place = divmod(number, len(rows))
        return rows[self._order(task, turn)[place]]

    def following(self, row: int, task: str) -> Iterator[int]:
        """Walk through the other rows of a task in dataset order from behind ``row`` on, around the end, once."""
        rows = self._rows[task]
        first = bisect_right(rows, row)
        for step in range(len(rows)):
            other = rows[(first + step) % len(rows)]
            if other != row:
                yield other

    def _order(self, task: str, number: int) -> "array[int]":
        cached = self._orders.get(task)
        if cached is not None and cached[0] == number:
            return cached[1]
        order = array("q", range(len(self._rows[task])))
        # the standard library hashes a string seed with SHA-512: the same order on every platform and version
        random.Random(f"{self.seed}/{task}/{number}").shuffle(order)
        self._orders[task] = (number, order)
        return order
