"""The endless order of prompts: a pure function of a seed and a position."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from lit_g2rpo.errors import UserError


class PromptStream:
    """Deal the rows of a dataset forever, taking tasks in turn.

    Each round has every task once and begins one task later than the last round, so ranks that take every ``w``-th
    position all get every task. Within a task, each row comes once per pass, and each pass has a new order. The only
    state is the current order of each task.

    Args:
        task_names: task of each dataset row.
        seed: seed of the orders.

    Raises:
        UserError: if there are no rows.
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
            shift: rows of each task to skip because refills drew them.
        """
        shift = shift or {}
        return [self.row(task, number + shift.get(task, 0)) for task, number in self.draws(start, count)]

    def draws(self, start: int, count: int) -> list[tuple[str, int]]:
        """Return the task at each of ``count`` positions from ``start`` on, and how many times it has been dealt."""
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
        """Find the dataset row of a task's draw by its number, from 0."""
        rows = self._rows[task]
        turn, place = divmod(number, len(rows))
        return rows[self._order(task, turn)[place]]

    def following(self, row: int, task: str) -> Iterator[int]:
        """Go once through the other rows of a task in dataset order, starting after ``row`` and wrapping around."""
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
