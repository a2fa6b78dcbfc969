"""Scoring during decoding: one thread scores finished groups while others are still being sampled."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards.running.scorer import Scored

Attempt = Callable[[list[int], list[Completion]], list[Scored]]


class BackgroundScoring:
    """Score whole groups as they arrive, all waiting ones in one call; close it, or use it as a context manager.

    Args:
        attempt: takes the indices of the groups' prompts and all their completions, group by group, and returns a
            score for each completion.
        here: score all groups in ``results``, in the caller's thread.
    """

    def __init__(self, attempt: Attempt, here: bool = False) -> None:
        self._attempt, self._here = attempt, here
        self._ready: deque[tuple[int, list[Completion]]] = deque()
        self._scored: dict[int, list[Scored]] = {}
        self._jobs: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, and score nothing more."""
        self._thread.shutdown(cancel_futures=True)

    def finished(self, index: int, completions: list[Completion]) -> None:
        """Queue a group for scoring.

        Args:
            index: index of its prompt.
            completions: its completions.
        """
        self._ready.append((index, completions))
        if not self._here:
            self._jobs.append(self._thread.submit(self._score))

    def settle(self) -> None:
        """Wait until the thread has nothing to score, without raising what it raised."""
        for job in self._jobs:
            with suppress(CancelledError):
                job.exception()

    def results(self) -> list[Scored]:
        """Wait until all groups are scored.

        Returns:
            Their scores, prompt by prompt, regardless of the order they arrived in.

        Raises:
            Exception: the first one that scoring raised.
        """
        for job in self._jobs:
            job.result()
        self._score()
        return [one for index in sorted(self._scored) for one in self._scored[index]]

    def _score(self) -> None:
        groups = [self._ready.popleft() for _ in range(len(self._ready))]
        if not groups:
            return
        scored = self._attempt([index for index, _ in groups], [c for _, group in groups for c in group])
        size = len(scored) // len(groups)
        for i, (index, _) in enumerate(groups):
            self._scored[index] = scored[i * size : (i + 1) * size]
