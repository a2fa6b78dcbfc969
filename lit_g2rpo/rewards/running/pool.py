"""Algebra in separate processes, which can be killed: a pool of workers with limits of time and memory."""

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar
from multiprocessing import Pipe

from lit_g2rpo.errors import UserError

START_SECONDS = 120.0
MAX_REMEMBERED = 16_384
# A fresh interpreter, not multiprocessing's spawn: that imports the caller's main module again and is refused inside
# the daemons that data loaders are; and not a fork, which is unsafe once CUDA is up.
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lit_g2rpo.rewards.running.worker import main; main()"
)


class TimedOut(Exception):
    """A comparison that was cut off by its limit of time or memory; it says nothing about the answer."""


class Pool:
    """Compare results by algebra, from any thread; processes start when first needed.

    Args:
        workers: most processes at a time.
        seconds: limit of wall-clock time for a comparison.
        memory: limit of each process's memory, bytes.

    ``restarts`` counts processes that were ended by a limit or died, and ``broken`` is why none can be started.
    """

    def __init__(self, workers: int = 2, seconds: float = 2.0, memory: int = 2**30) -> None:
        self.workers, self.seconds, self.memory = workers, seconds, memory
        self.restarts = 0
        self.broken: UserError | None = None
        self._lock = threading.Lock()
        self._remembered: dict[tuple[str, str], Future[bool]] = {}
        self._vacate()
        _POOLS.add(self)

    def verify(self, gold: str, answer: str) -> bool:
        """Compare an answer with a gold result, both LaTeX; a pair that was compared since ``forget`` is remembered.

        Returns:
            True if math-verify finds them equal.

        Raises:
            TimedOut: if the limit of time or memory cut the comparison off.
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
        """Tell whether math-verify reads a result in LaTeX as a value, not only as a text.

        Raises:
            TimedOut: if the limit of time or memory cut the reading off.
            UserError: if no process can be started.
        """
        return self._compare(text, None)

    def forget(self) -> None:
        """Drop what was compared, time-outs included."""
        with self._lock:
            self._remembered.clear()

    def close(self) -> None:
        """End all processes; a later comparison starts new ones."""
        with self._lock:
            running = list(self._running)
        for worker in running:
            self._end(worker)

    def _compare(self, gold: str, answer: str | None) -> bool:
        worker = self._idle.get()
        try:
            # A process that ended on its own, or was killed from outside, gets a successor and the pair another try.
            for _ in range(2):
                if worker is None:
                    worker = self._start()
                reply = worker.ask(gold, answer, self.seconds)
                if reply in ("true", "false"):
                    return reply == "true"
                self._end(worker)
                worker = None
                with self._lock:
                    self.restarts += 1
                if reply != "ended":
                    break
            raise TimedOut(f"no result within {self.seconds:g} s and {self.memory >> 20} MiB")
        finally:
            self._idle.put(worker)

    def _start(self) -> "_Worker":
        worker = _Worker(self.seconds, self.memory)
        with self._lock:
            self._running.add(worker)
        reply = worker.receive(START_SECONDS)
        if reply != "ready":
            self._end(worker)
            self.broken = UserError(
                f"a process for mathematics does not start ({reply}); install math-verify[antlr4_13_2] beside lit_g2rpo"
            )
            raise self.broken
        return worker

    def _end(self, worker: "_Worker") -> None:
        with self._lock:
            self._running.discard(worker)
        worker.end()

    def _vacate(self) -> None:
        self._running: set[_Worker] = set()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def _after_fork(self) -> None:
        # The child must neither talk to its parent's processes nor keep their pipes open.
        for worker in self._running:
            worker.connection.close()
        self._lock = threading.Lock()
        self._remembered = {}
        self._vacate()


class _Worker:
    """A process that compares, and its end of the pipe."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.connection, theirs = Pipe()
        settings = [json.dumps(sys.path), str(theirs.fileno()), str(seconds), str(memory)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, *settings],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # its own session: Ctrl-C is for the parent, which ends it; what it cannot do it says through the pipe
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def ask(self, gold: str, answer: str | None, seconds: float) -> str:
        try:
            self.connection.send_bytes(json.dumps([gold, answer]).encode())
        except OSError:
            return "ended"
        return self.receive(seconds)

    def receive(self, seconds: float) -> str:
        try:
            return self.connection.recv_bytes().decode() if self.connection.poll(seconds) else "late"
        except (EOFError, OSError):
            return "ended"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_CURRENT: ContextVar[Pool | None] = ContextVar("current_pool", default=None)
_DEFAULT: list[Pool] = []
_DEFAULT_LOCK = threading.Lock()


def current_pool() -> Pool:
    """Return the pool that this thread compares with: the one it was told to use, or the process's own."""
    pool = _CURRENT.get()
    if pool is None:
        with _DEFAULT_LOCK:
            if not _DEFAULT:
                _DEFAULT.append(Pool())
        pool = _DEFAULT[0]
    return pool


def use_pool(pool: Pool) -> None:
    """Make this thread compare with a pool."""
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
