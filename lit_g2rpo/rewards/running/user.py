"""Custom rewards: found by import path and called by their own signature; failures are returned as data."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import load
from lit_g2rpo.rewards.compose import RewardResult
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.adapters import Adapter, Batch, adapt
from lit_g2rpo.rewards.running.outcome import Failure, failure_of, read_outcome

CONCURRENT = 64
"""Most concurrent calls of an asynchronous function for single completions."""

Outcome = RewardResult | Failure
Tell = Callable[[int, Outcome], None]
"""Receives the index of a completion in its batch, and its score or why it has none."""


class UserReward:
    """A reward function, called in this thread.

    Args:
        path: its import path.
        config: supplies the tags.
        seconds: limit of one awaited call; 0 for no limit.
        where: the key that names it, for messages.

    Raises:
        UserError: if it cannot be found or has an unknown signature.
    """

    def __init__(self, path: str, config: RewardConfig, seconds: float = 0.0, where: str = "reward") -> None:
        self.path, self.config, self.seconds = path, config, seconds
        self.adapter: Adapter = adapt(load(path, where), f"{where}: {path}")
        self.batched = self.adapter.batched

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Score ``N`` completions.

        Returns:
            ``N`` scores, each of which may be a `Failure` instead.

        Raises:
            UserError: if the function asks for a column that no row has.
        """
        outcomes: dict[int, Outcome] = {}
        self.score(batch, outcomes.__setitem__)
        return [outcomes[i] for i in range(len(batch.completions))]

    def score(self, batch: Batch, tell: Tell) -> None:
        """Score completions and report each outcome as soon as it is known.

        Raises:
            UserError: as calling the object does.
        """
        n = len(batch.completions)
        if self.adapter.batched:
            self._whole(batch, tell)
        elif self.adapter.is_async:
            _complete(self._together(batch, tell))
        else:
            for i in range(n):
                one = batch.only([i])
                tell(i, self._read(_caught(lambda: self.adapter.call(one)), one))  # noqa: B023 (called at once)

    def _whole(self, batch: Batch, tell: Tell) -> None:
        def call() -> Any:
            if not self.adapter.is_async:
                return self.adapter.call(batch)
            return _complete(self._awaited(lambda: self.adapter.call(batch)))

        values, n = _caught(call), len(batch.completions)
        if isinstance(values, Failure) and values.code != "timeout" and n > 1:
            # An exception does not name a completion, so each is retried alone: one bad one then costs one reward.
            for i in range(n):
                self._whole(batch.only([i]), lambda _, outcome: tell(i, outcome))  # noqa: B023 (called at once)
            return
        if not isinstance(values, Failure) and (not hasattr(values, "__len__") or len(values) != n):
            values = Failure("bad_value", f"returned {type(values).__name__} for {n} completions; a list of {n}")
        for i, value in enumerate([values] * n if isinstance(values, Failure) else values):
            tell(i, self._read(value, batch.only([i])))

    async def _together(self, batch: Batch, tell: Tell) -> None:
        gate = asyncio.Semaphore(CONCURRENT)

        async def one(i: int) -> None:
            single = batch.only([i])
            async with gate:
                tell(i, self._read(await self._awaited(lambda: self.adapter.call(single)), single))

        await asyncio.gather(*map(one, range(len(batch.completions))))

    async def _awaited(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async def value() -> Any:
            try:
                return await call()
            except SystemExit as error:  # it would end the loop, and with it all other calls
                return failure_of(error)

        try:
            return await asyncio.wait_for(value(), self.seconds or None)
        except UserError:
            raise
        except TimeoutError as error:
            return Failure("timeout", f"no value within {self.seconds:g} s") if self.seconds else failure_of(error)
        except (Exception, asyncio.CancelledError) as error:
            return failure_of(error)

    def _read(self, value: Any, one: Batch) -> Outcome:
        # inspecting a user's object may raise
        found = _caught(lambda: read_outcome(value, one.completions[0], self.config))
        assert isinstance(found, RewardResult | Failure)
        return found


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError:
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return failure_of(error)


def _complete(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # a notebook's thread already has a loop
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
