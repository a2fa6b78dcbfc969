"""Algebra in separate processes that can be killed: a pool of workers with time and memory limits."""

import atexit
import os
import queue
import signal
import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.running.server import Server, Worker

MAX_REMEMBERED = 16_384
WALL = 30
"""Wall-clock limit, as a multiple of the CPU-time limit, after which an idle worker is killed."""


class TimedOut(Exception):
    """A comparison that hit its time or memory limit, which says nothing about the answer."""


class Pool:
    """Compare results by algebra, from any thread; processes start when first needed.

    Args:
        workers: most processes at a time.
        seconds: limit of CPU seconds per comparison, so that no result depends on the load of the machine.
        memory: memory limit of each process, bytes.

    ``restarts`` counts processes that were killed by a limit or died; ``broken`` says why none can be started.
    """

    _server: Server | None
    _starting: threading.Lock

    def __init__(self, workers: int = 2, seconds: float = 2.0, memory: int = 2**30) -> None:
        self.workers, self.seconds, self.memory = workers, seconds, memory
        self.restarts = 0
        self.broken: UserError | None = None
        self._lock = threading.Lock()
        self._remembered: dict[tuple[str, str], Future[bool]] = {}
        self._vacate()
        _POOLS.add(self)

    def verify(self, gold: str, answer: str) -> bool:
        """Compare an answer with a gold result, both LaTeX, and remember the pair until ``forget``.

        Returns:
            True if math-verify finds them equal.

        Raises:
            TimedOut: if the comparison hit its time or memory limit.
            UserError: if no process can be started.
        """
        key = (gold, answer)
        with self._lock:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            future = self._remembered.get(key)
            if owner := future is None:
                future = self._remembered[key] = Future()
        assert future is not None
        if owner:
            try:
                future.set_result(self._compare(gold, answer))
            except BaseException as error:
                if not isinstance(error, TimedOut):
                    self._remembered.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()

    def reads(self, text: str) -> bool:
        """Return whether math-verify reads a LaTeX result as a value, not only as text.

        Raises:
            TimedOut: if reading hit its time or memory limit.
            UserError: if no process can be started.
        """
        return self._compare(text, None)

    def forget(self) -> None:
        """Forget all comparisons, including time-outs."""
        with self._lock:
            self._remembered.clear()

    def close(self) -> None:
        """End all processes; a later comparison starts new ones."""
        with self._lock:
            running = list(self._running)
        for worker in running:
            self._end(worker)
        with self._starting:
            if self._server is not None:
                self._server.end()
                self._server = None

    def _compare(self, gold: str, answer: str | None) -> bool:
        worker = self._idle.get()
        try:
            # If a process ended on its own or was killed from outside, start another one and retry the pair.
            for _ in range(2):
                if worker is None:
                    worker = self._start()
                reply = worker.ask(gold, answer, WALL * self.seconds)
                if reply in ("true", "false"):
                    return reply == "true"
                if reply == "large":
                    raise TimedOut("too large to compute")
                code = self._end(worker)
                worker = None
                with self._lock:
                    self.restarts += 1
                if reply != "ended" or code == -signal.SIGPROF:
                    break
            raise TimedOut(f"no result within {self.seconds:g} s of CPU time and {self.memory >> 20} MiB")
        finally:
            self._idle.put(worker)

    def _start(self) -> Worker:
        with self._starting:
            worker = self._server.fork() if self._server is not None else None
            if worker is None:
                worker = self._launch().fork()
        if worker is None:
            raise self._not_started("it ended")
        with self._lock:
            self._running.add(worker)
        return worker

    def _launch(self) -> Server:
        if self._server is not None:
            self._server.end()
        self._server = Server(self.seconds, self.memory)
        if wrong := self._server.wrong:
            self._server.end()
            self._server = None
            raise self._not_started(wrong)
        return self._server

    def _not_started(self, why: str) -> UserError:
        self.broken = UserError(
            f"a process for mathematics does not start ({why}); install math-verify[antlr4_13_2] beside lit_g2rpo"
        )
        return self.broken

    def _end(self, worker: Worker) -> int | None:
        with self._lock:
            self._running.discard(worker)
        return worker.end()

    def _vacate(self) -> None:
        self._server = None
        self._starting = threading.Lock()
        self._running: set[Worker] = set()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def _after_fork(self) -> None:
        # The child must not talk to its parent's processes or keep their pipes open.
        for worker in self._running:
            worker.connection.close()
        if self._server is not None:
            self._server.leave()
        self._lock = threading.Lock()
        self._remembered = {}
        self._vacate()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_CURRENT: ContextVar[Pool | None] = ContextVar("current_pool", default=None)
_DEFAULT: list[Pool] = []
_DEFAULT_LOCK = threading.Lock()


def current_pool() -> Pool:
    """Return the pool of this thread: the one set for it, or the process's own."""
    pool = _CURRENT.get()
    if pool is None:
        with _DEFAULT_LOCK:
            if not _DEFAULT:
                _DEFAULT.append(Pool())
        pool = _DEFAULT[0]
    return pool


def use_pool(pool: Pool) -> None:
    """Set the pool of this thread."""
    _CURRENT.set(pool)


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._after_fork()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
