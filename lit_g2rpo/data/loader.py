"""The training loader: each rollout's prompts, repeated once per micro-batch."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from lit_g2rpo.data.images import ImageError
from lit_g2rpo.data.stream import PromptStream
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

log = logging.getLogger(__name__)

DRAWN_BEFORE_ABORT = 100


class PromptDataset(Protocol):
    """Rows that can be opened as prompts; opening may raise ``ImageError``."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int) -> Prompt:
        """Opens a row."""
        ...

    def task_names(self) -> Sequence[str]:
        """Task of each row."""
        ...


class Loaded(NamedTuple):
    """The opened prompts of a rollout and what failed on the way, one message each."""

    position: int
    prompts: list[Prompt]
    failures: list[str]


def shard(rows: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Takes a rank's share of a rollout: every ``world_size``-th row, so that each run of rows is shared by all ranks.

    Args:
        rows: row numbers of the global rollout, a multiple of ``world_size``.
        rank: which share.
        world_size: number of shares.

    Returns:
        The rank's row numbers.
    """
    return list(rows[rank::world_size])


class RolloutLoader:
    """Yields ``(prompts, k)`` for ``k`` in ``range(microbatches)``, then the next rollout's prompts.

    Each iteration yields ``len(self)`` batches from the saved position on, so a state taken at any batch, the last of
    an epoch included, continues exactly. While a rollout is in use, the images of the next one are opened in a thread.
    A row whose image cannot be used is replaced by the next row of its task that opens.

    Args:
        dataset: the training rows.
        prompts: prompts per rollout, over all ranks.
        microbatches: micro-batches per rollout.
        rollouts_per_epoch: rollouts per iteration.
        seed: seed of the prompt order.
        rank: this process.
        world_size: number of processes.
        max_failure_rate: share of rows that may fail to open before the run stops, from 0 to 1.

    Attributes:
        drawn: rows opened so far by this rank, or tried.
        failures: rows that failed to open.

    Raises:
        UserError: if the sizes do not fit each other, or, while iterating, if too many rows fail.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        *,
        prompts: int,
        microbatches: int,
        rollouts_per_epoch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        max_failure_rate: float = 0.01,
    ) -> None:
        sizes = {
            "rollout.prompts": prompts,
            "micro-batches": microbatches,
            "data.rollouts_per_epoch": rollouts_per_epoch,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name} is {size}; it must be at least 1")
        if prompts % world_size:
            raise UserError(f"rollout.prompts is {prompts}; it must be a multiple of the {world_size} processes")
        self.dataset = dataset
        self._task_names = dataset.task_names()
        self.stream = PromptStream(self._task_names, seed)
        self.prompts, self.microbatches, self.rollouts_per_epoch = prompts, microbatches, rollouts_per_epoch
        self.rank, self.world_size, self.max_failure_rate = rank, world_size, max_failure_rate
        self.drawn = self.failures = 0
        self._position = self._microbatch = 0
        self._current: Loaded | None = None
        self._ahead: tuple[int, Future[Loaded]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """Number of batches per iteration."""
        return self.rollouts_per_epoch * self.microbatches

    def __iter__(self) -> Iterator[tuple[list[Prompt], int]]:
        """Goes on from the saved position for ``len(self)`` batches."""
        for _ in range(len(self)):
            prompts, k = self._rollout(), self._microbatch
            self._microbatch = (k + 1) % self.microbatches
            if self._microbatch == 0:
                self._position += self.prompts
            yield prompts, k

    def state_dict(self) -> dict[str, int]:
        """Returns where the next batch lies, and the counts."""
        return {
            "position": self._position,
            "microbatch": self._microbatch,
            "microbatches": self.microbatches,
            "drawn": self.drawn,
            "failures": self.failures,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a saved place.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            UserError: if the state lies inside a rollout that had another number of micro-batches.
        """
        if state["microbatch"] and state["microbatches"] != self.microbatches:
            raise UserError(
                f"the checkpoint lies inside a rollout of {state['microbatches']} micro-batches, but "
                f"update.epochs x update.microbatches is {self.microbatches}; resume with the same number"
            )
        self._position, self._microbatch = state["position"], state["microbatch"]
        self.drawn, self.failures = state["drawn"], state["failures"]
        self._current = None

    def _rollout(self) -> list[Prompt]:
        if self._current is None or self._current.position != self._position:
            # The last rollout's images are let go before the next ones are waited for.
            self._current = None
            if self._ahead is not None and self._ahead[0] == self._position:
                self._current = self._ahead[1].result()
            else:
                self._current = self._load(self._position)
            if self._microbatch == 0:
                self._count(self._current)
            self._look_ahead(self._position + self.prompts)
        return self._current.prompts

    def _look_ahead(self, position: int) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._ahead = (position, self._thread.submit(self._load, position))

    def _load(self, position: int) -> Loaded:
        rows = shard(self.stream.rows(position, self.prompts), self.rank, self.world_size)
        failures: list[str] = []
        return Loaded(position, [self._open(row, failures) for row in rows], failures)

    def _open(self, row: int, failures: list[str]) -> Prompt:
        task = self._task_names[row]
        try:
            return self.dataset[row]
        except ImageError as error:
            failures.append(str(error))
        for other in self.stream.following(row, task):
            try:
                return self.dataset[other]
            except ImageError as error:
                failures.append(str(error))
        raise UserError(f"no row of task {task} has images that open; the last reason: {failures[-1]}")

    def _count(self, loaded: Loaded) -> None:
        for message in loaded.failures:
            log.warning("row replaced: %s", message)
        self.drawn += len(loaded.prompts) + len(loaded.failures)
        self.failures += len(loaded.failures)
        if self.drawn >= DRAWN_BEFORE_ABORT and self.failures > self.max_failure_rate * self.drawn:
            raise UserError(
                f"{self.failures} of {self.drawn} rows failed to open, more than data.max_failure_rate "
                f"{self.max_failure_rate}; the last one: {loaded.failures[-1] if loaded.failures else 'see above'}"
            )
