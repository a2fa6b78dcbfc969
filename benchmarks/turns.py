"""Training runs that take turns, and the CPU-seconds of their phases."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peak import peak_bytes, start_peak


class Phases:
    """CPU-seconds of named phases, each without the phases inside it; on CUDA, seconds with synchronization.

    Args:
        cuda: measure a CUDA device.
    """

    def __init__(self, cuda: bool = False) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._cuda, self._local = cuda, threading.local()

    def _clock(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        # Only this thread's time: another thread prepares prompts while a phase runs.
        return time.thread_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside the context to a phase.

        Args:
            name: the phase.
        """
        stack = self._local.__dict__.setdefault("stack", [])
        now = self._clock()
        if stack:
            self.seconds[stack[-1][0]] += now - stack[-1][1]
        stack.append([name, now])
        try:
            yield
        finally:
            now = self._clock()
            self.seconds[name] += now - stack.pop()[1]
            if stack:
                stack[-1][1] = now

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Charge every call of ``owner.attribute`` to a phase.

        Args:
            owner: an object or a module.
            attribute: its function.
            name: the phase.
        """
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)


class Turn:
    """A training run that proceeds one rollout at a time in its own thread.

    Args:
        run: trains, and calls its argument after every rollout's last update.
    """

    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, args=(run,), daemon=True)
        self._thread.start()

    def _main(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._go.acquire()
        torch.set_num_threads(1)
        try:
            run(self._pause)
        except BaseException as error:
            self._error = error
        self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()

    def step(self) -> None:
        """Run to the end of the next rollout or, after the last one, to the end of the run."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error


def measure(sides: dict[str, Any], pairs: int, cuda: bool) -> dict[str, list[dict[str, Any]]]:
    """Let the sides train in turns.

    Args:
        sides: the sides by name, each with ``run``, ``phases`` and ``counters``.
        pairs: measured steps of each, after one that is discarded.
        cuda: measure seconds with synchronization instead of CPU-seconds.

    Returns:
        For each side and step: ``seconds``, ``wall``, ``peak_gib``, ``phases`` and ``counters``. The peak is the memory
        left by the first step (weights, optimizer) plus the memory of this step above that in use before it.
    """
    device = "cuda" if cuda else "cpu"
    turns = {name: Turn(side.run) for name, side in sides.items()}
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    left = {}
    for name, turn in turns.items():
        before = start_peak(device)
        turn.step()
        left[name] = start_peak(device) - before
    for _ in range(pairs):
        for name, side in sides.items():
            phases, counters = dict(side.phases.seconds), side.counters()
            before = start_peak(device)
            cpu, wall = time.process_time(), time.perf_counter()
            turns[name].step()
            if cuda:
                torch.cuda.synchronize()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            spent = {key: value - phases.get(key, 0.0) for key, value in side.phases.seconds.items() if key != "other"}
            seconds = wall if cuda else cpu
            spent["other"] = seconds - sum(spent.values())
            done = {key: value - counters.get(key, 0) for key, value in side.counters().items()}
            peak = (left[name] + peak_bytes(device) - before) / 2**30
            steps[name].append({"seconds": seconds, "wall": wall, "peak_gib": peak, "phases": spent, "counters": done})
    for turn in turns.values():
        turn.step()
    return steps


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Compute the median of each key.

    Args:
        rows: measurements.

    Returns:
        The medians, 0 where a row lacks a key.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: statistics.median(row.get(key, 0.0) for row in rows) for key in keys}
