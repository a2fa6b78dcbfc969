"""Custom rewards: found by import path, called with limits; what goes wrong is data."""

import asyncio
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import load
from lit_g2rpo.rewards.running.adapters import Adapter, Batch, adapt
from lit_g2rpo.rewards.running.outcome import Failure

CONCURRENT = 64
"""Calls of an asynchronous function for single completions that run at a time."""
PATIENCE = 5
"""Calls in a row without a value in time, after which further ones are not tried: each would cost its whole time."""


class UserReward:
    """A reward function with a limit of time.

    Args:
        path: its import path.
        seconds: time for one call; 0 for no limit, in the caller's thread.
        where: the key that names it, for messages.

    ``late`` counts calls in a row that had no value in time; whoever scores another batch sets it to 0 to try again.

    Raises:
        UserError: if it cannot be found or has another signature.
    """

    def __init__(self, path: str, seconds: float = 60.0, where: str = "reward") -> None:
        self.path, self.seconds, self.late = path, seconds, 0
        self.adapter: Adapter = adapt(load(path, where), f"{where}: {path}")

    def __call__(self, batch: Batch) -> list[Any]:
        """Call the function on ``N`` completions.

        Returns:
            ``N`` values: what the function returned, or a `Failure`.

        Raises:
            UserError: if the function asks for a column that no row has.
        """
        n = len(batch.completions)
        if not self.adapter.batched:
            singles = [batch.only([i]) for i in range(n)]
            if self.adapter.is_async:
                return self._together(singles)
            return [self._limited(partial(self.adapter.call, one)) for one in singles]
        values = self._limited(lambda: self._whole(batch))
        if isinstance(values, Failure):
            # A call that raises names no completion: each is tried alone, so that one bad one costs one reward.
            if values.code == "timeout" or n == 1:
                return [values] * n
            return [value for i in range(n) for value in self(batch.only([i]))]
        if not hasattr(values, "__len__") or len(values) != n:
            return [Failure("bad_value", f"returned {type(values).__name__} for {n} completions; a list of {n}")] * n
        return list(values)

    def _whole(self, batch: Batch) -> Any:
        values = self.adapter.call(batch)
        return asyncio.run(asyncio.wait_for(values, self.seconds or None)) if self.adapter.is_async else values

    def _together(self, singles: list[Batch]) -> list[Any]:
        values: list[Any] = [_late(self.seconds)] * len(singles)

        async def one(i: int, gate: asyncio.Semaphore) -> None:
            async with gate:
                values[i] = await _awaited(self.adapter.call(singles[i]), self.seconds)

        async def everyone() -> None:
            gate = asyncio.Semaphore(CONCURRENT)
            await asyncio.gather(*(one(i, gate) for i in range(len(singles))))

        # A function that blocks instead of waiting is stopped from outside, when every call had its time.
        rounds = -(-len(singles) // CONCURRENT) + 1
        failure = self._limited(lambda: asyncio.run(everyone()), rounds)
        return [failure] * len(singles) if isinstance(failure, Failure) and failure.code != "timeout" else list(values)

    def _limited(self, call: Callable[[], Any], rounds: int = 1) -> Any:
        values: list[Any] = []
        if self.late >= PATIENCE:
            return Failure("timeout", f"not tried: {PATIENCE} calls in a row gave no value within {self.seconds:g} s")
        if self.seconds:
            # A daemon, because Python cannot stop a thread: one that overruns is left behind.
            thread = threading.Thread(target=lambda: values.append(_caught(call)), daemon=True)
            thread.start()
            thread.join(self.seconds * rounds)
        else:
            values.append(_caught(call))
        if not values:
            self.late += 1
            if self.late == 1:
                warnings.warn(
                    f"reward {self.path} gave no value within {self.seconds:g} s: the call scores 0 and is left behind",
                    stacklevel=2,
                )
            return _late(self.seconds)
        self.late = 0
        if isinstance(values[0], UserError):
            raise values[0]
        return values[0]


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError as error:
        return error
    except (Exception, SystemExit) as error:
        return _failure(error)


async def _awaited(call: Awaitable[Any], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(call, seconds or None)
    except (Exception, SystemExit) as error:
        return _late(seconds) if isinstance(error, TimeoutError) else _failure(error)


def _failure(error: BaseException) -> Failure:
    code = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(code, f"{' '.join(str(error).split())[:500]} ({Path(place.filename).name}, line {place.lineno})")


def _late(seconds: float) -> Failure:
    return Failure("timeout", f"no value within {seconds:g} s")
