"""Sampler of the rows of each rollout and refill, per rank, with a state that resumes exactly."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lit_g2rpo.data.order.mixture import MixedStream, Mixture
from lit_g2rpo.data.order.stream import PromptStream

log = logging.getLogger(__name__)


def shard(rows: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Take every ``world_size``-th row of a rollout as a rank's share, so all ranks share each run of rows."""
    return list(rows[rank::world_size])


def copies(rows: Sequence[int]) -> list[int]:
    """Count earlier occurrences of each row of a global rollout, to distinguish groups of the same prompt."""
    seen: Counter[int] = Counter()
    found = []
    for row in rows:
        found.append(seen[row])
        seen[row] += 1
    return found


class TaskMixtureSampler:
    """Draw the rows of each rollout, and more rows of a task when groups are replaced.

    Rows of a task have one order: refills take the rows after those of the current and the next rollout, and later
    rollouts continue after them. So no row is drawn twice in a pass, and the next rollout is fixed when the current one
    begins, so it can be opened ahead of time.

    Args:
        task_names: task of each dataset row.
        seed: seed of the orders.
        prompts: prompts per rollout, over all ranks.
        mixture: shares of the tasks; None deals them in turn.

    Attributes:
        position: prompts before the current rollout, not counting refills.

    Raises:
        UserError: if there are no rows, or the mixture does not match the data.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        seed: int,
        *,
        prompts: int,
        mixture: Mixture | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.stream = (
            PromptStream(task_names, seed) if mixture is None else MixedStream(task_names, seed, mixture, prompts)
        )
        self.prompts, self.rank, self.world_size = prompts, rank, world_size
        self.position = 0
        # draws of refills, by task: before the current rollout, before the next one, and in the current one
        self._shift: dict[str, int] = {}
        self._next_shift: dict[str, int] = {}
        self._refilled: dict[str, int] = {}
        self._warn()

    def rows(self) -> list[int]:
        """Return this rank's rows of the current rollout."""
        return self._share(self._rows())

    def copies(self) -> list[int]:
        """Return how often each of these rows came before in the rollout, on any rank."""
        return self._share(copies(self._rows()))

    def rows_ahead(self) -> list[int]:
        """Return this rank's rows of the next rollout."""
        return self._share(self._rows_ahead())

    def copies_ahead(self) -> list[int]:
        """Return how often each of these rows came before in the next rollout, on any rank."""
        return self._share(copies(self._rows_ahead()))

    def advance(self) -> None:
        """Advance to the next rollout."""
        self.position += self.prompts
        self._shift = self._next_shift
        self._next_shift = _sum(self._next_shift, self._refilled)
        self._refilled = {}

    def refill(self, tasks: Sequence[str]) -> list[int]:
        """Draw more rows for the current rollout.

        Args:
            tasks: task of each row to draw, over all ranks and the same on every rank.

        Returns:
            One row for each, the same on every rank.
        """
        rows = []
        for task in tasks:
            number = self.stream.dealt(task, self.position + 2 * self.prompts) + self._next_shift.get(task, 0)
            rows.append(self.stream.row(task, number + self._refilled.get(task, 0)))
            self._refilled = _sum(self._refilled, {task: 1})
        return rows

    def forget_refills(self) -> None:
        """Undo the refills of the current rollout, so that they can be drawn again."""
        self._refilled = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {
            "position": self.position,
            "shift": dict(self._shift),
            "next_shift": dict(self._next_shift),
            "refilled": dict(self._refilled),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position from ``state_dict``."""
        self.position = state["position"]
        self._shift, self._next_shift = dict(state["shift"]), dict(state["next_shift"])
        self._refilled = dict(state["refilled"])

    def _rows(self) -> list[int]:
        return self.stream.rows(self.position, self.prompts, self._shift)

    def _rows_ahead(self) -> list[int]:
        return self.stream.rows(self.position + self.prompts, self.prompts, self._next_shift)

    def _share(self, rows: Sequence[int]) -> list[int]:
        return shard(rows, self.rank, self.world_size)

    def _warn(self) -> None:
        first = [task for task, _ in self.stream.draws(0, self.prompts)]
        groups = {task: first.count(task) for task in self.stream.tasks}
        if alone := [task for task, count in groups.items() if count == 1]:
            log.warning(
                "a rollout of %d prompts has one group of %s: there is no other group of the task to compare it with; "
                "raise model.rollout.prompts to %d or set data.mixture",
                self.prompts, ", ".join(alone), 2 * len(groups),
            )  # fmt: skip
        for task, count in groups.items():
            if count > self.stream.sizes[task]:
                log.warning(
                    "task %s has %d rows, but a rollout has %d groups of it: some rollouts hold a prompt twice",
                    task, self.stream.sizes[task], count,
                )  # fmt: skip


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {task: one.get(task, 0) + other.get(task, 0) for task in one.keys() | other.keys()}
