"""The servers of a run: they share its prompts, and each is brought up to date whenever it is behind."""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.rollout.vllm.server.protocol import Serves, State
from lit_g2rpo.rollout.vllm.server.server import Load, Server
from lit_g2rpo.rollout.vllm.server.wire import AwayError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Pause before a server that does not answer is tried again."""
WATCH_SECONDS = 2.0
"""Time between two looks at a server that is sampling."""
TRIES = 5
"""Failures of a prompt, on any servers, after which it is itself to blame."""
CURE = "start it with python -m lit_g2rpo serve ..., and the run again"

T = TypeVar("T")


class BehindError(AwayError):
    """A server that answers, but waits for weights that another rank is to push."""


class Fleet(Generic[T]):
    """Sample on several servers, which give the same completions, so that it does not matter which one samples what.

    Args:
        servers: the servers.
        check: refuses a server, given its address and how it was started, that this run cannot use.
        weights: returns the version that each server must have, and what puts it there; None if this rank cannot.
        patience: seconds without an answer or a token after which the run is saved and ends.
    """

    def __init__(
        self,
        servers: list[Server],
        check: Callable[[str, Serves], None],
        weights: Callable[[], tuple[str, Load | None]],
        patience: float,
    ) -> None:
        self.servers, self.patience = servers, patience
        self._check, self._weights = check, weights

    def meet(self) -> None:
        """Lease all servers.

        Raises:
            UserError: if one of them is not there, or not one that this run can use.
        """
        self._each(self._lease, lambda: False)
        if lost := [server for server in self.servers if server.trouble]:
            raise UserError(self._away(lost[0]))

    def bring_up(self) -> None:
        """Push the weights to all servers that can be had; the others get them once they answer.

        Raises:
            UserError: if a server is not one that this run can use.
            RolloutStopError: if no server took them in time.
        """
        for server in self.servers:
            server.ready = False
        self._each(self._bring_up, lambda: any(server.ready for server in self.servers))
        lost = [server for server in self.servers if not server.ready]
        if len(lost) == len(self.servers):
            raise RolloutStopError(self._away(lost[0]))
        for server in lost:
            log.warning("%s does not answer (%s); the other servers take its prompts", server.url, server.trouble)

    def sample(
        self,
        requests: Mapping[int, Callable[[], bytes]],
        read: Callable[[int, bytes], T],
        at_once: Callable[[Server], int],
    ) -> Generator[tuple[int, T], None, None]:
        """Send requests to the servers, each to the one that is free, and again if it fails.

        Args:
            requests: make the requests.
            read: reads the reply to one; an `AwayError` asks for another try.
            at_once: number of requests that a server gets at a time.

        Yields:
            The key of a request and what ``read`` made of the reply, as they come.

        Raises:
            RolloutStopError: if no server answers in time, or one request fails again and again.
        """
        work = _Work(requests, read)
        threads = [
            threading.Thread(target=self._serve, args=(server, work), daemon=True)
            for server in self.servers
            for _ in range(min(at_once(server), len(requests)))
        ]
        threads += [threading.Thread(target=self._watch, args=(server, work), daemon=True) for server in self.servers]
        for thread in threads:
            thread.start()
        try:
            left = len(requests)
            while left:
                found = work.next(self.patience)
                if found is None:
                    raise RolloutStopError(f"no completion for {self.patience:g} s: {self._troubles()}; {CURE}")
                left -= 1
                yield found
                work.moved()
        finally:
            work.stop(len(threads))
            for server in self.servers:
                server.wire.abort()
            for thread in threads:
                thread.join()

    def _each(self, action: Callable[[Server], object], enough: Callable[[], bool]) -> None:
        """Do something with each server, again and again until it succeeds or there is no more patience.

        Args:
            action: what to do.
            enough: whether those that succeeded are enough, so that a server that does not answer is left out.
        """

        def tried(server: Server) -> None:
            start, said = time.monotonic(), False
            while True:
                try:
                    action(server)
                    server.trouble = ""
                    return
                except AwayError as error:
                    server.trouble = str(error)
                    # the rank that is to push has a limit of its own
                    behind = isinstance(error, BehindError)
                start = time.monotonic() if behind else start
                if time.monotonic() - start > self.patience or (enough() and not behind):
                    return
                if not (said or behind):
                    log.warning("waiting for %s (%s)", server.url, server.trouble)
                said = True
                time.sleep(RETRY_SECONDS)

        with ThreadPoolExecutor(len(self.servers)) as threads:
            list(threads.map(tried, self.servers))

    def _lease(self, server: Server) -> State:
        server.lease()
        state = server.state()
        server.serves = state.serves
        self._check(server.url, state.serves)
        return state

    def _bring_up(self, server: Server, moved: Callable[[], None] = lambda: None) -> None:
        with server.lock:
            if server.ready:
                return
            state = self._lease(server)
            version, load = self._weights()
            if state.version != version or state.paused:
                if load is None:
                    raise BehindError(f"its weights are of version {state.version}, not {version}")
                server.push(load, version, moved)
            server.ready = True

    def _serve(self, server: Server, work: "_Work[T]") -> None:
        while not work.ended:
            try:
                if not server.ready:
                    self._bring_up(server, work.moved)
                index = work.take()
            except AwayError as error:
                server.trouble = str(error)
                work.wait(RETRY_SECONDS)
                continue
            except Exception as error:  # raised again by the thread that samples
                work.fail(error)
                return
            if index is None:
                return
            try:
                work.finish(index, work.read(index, server.sample(work.requests[index]())))
            except AwayError as error:
                if work.ended:
                    return
                if server.ready:
                    log.warning("%s failed (%s); its prompts are sampled again", server.url, error)
                server.ready, server.trouble = False, str(error)
                failures = work.again(index, f"{server.url} ({error})")
                work.wait(RETRY_SECONDS * 2 ** (failures - 1))
            except Exception as error:  # raised again by the thread that samples
                work.fail(error)
                return

    def _watch(self, server: Server, work: "_Work[T]") -> None:
        """Notice progress, and end the requests to a server that is stuck or has lost its weights."""
        heard, tokens = time.monotonic(), -1
        while not work.wait(WATCH_SECONDS):
            try:
                state = server.state()
            except AwayError as error:
                if time.monotonic() - heard > self.patience / 3:
                    server.trouble = str(error)
                    server.wire.abort()
                continue
            except Exception as error:  # raised again by the thread that samples
                work.fail(error)
                return
            heard = time.monotonic()
            if state.tokens != tokens and server.ready:
                work.moved()
            tokens = state.tokens
            if server.ready and (state.version != self._weights()[0] or state.paused):
                server.trouble = "its weights are not the newest"
                server.wire.abort()

    def _away(self, server: Server) -> str:
        return f"{server.url} has not answered for {self.patience:g} s ({server.trouble}); {CURE}"

    def _troubles(self) -> str:
        return "; ".join(
            f"{server.url} ({server.trouble or 'it answers, but writes no token'})" for server in self.servers
        )


class _Work(Generic[T]):
    """Requests to be made, shared by the threads that make them."""

    def __init__(self, requests: Mapping[int, Callable[[], bytes]], read: Callable[[int, bytes], T]) -> None:
        self.requests, self.read = requests, read
        self._todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, T] | Exception] = queue.SimpleQueue()
        self._failures: Counter[int] = Counter()
        self._ended = threading.Event()
        self._moved = time.monotonic()
        for index in requests:
            self._todo.put(index)

    @property
    def ended(self) -> bool:
        """True if nothing is asked for any more."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether nothing is asked for any more."""
        return self._ended.wait(seconds)

    def moved(self) -> None:
        """Record progress."""
        self._moved = time.monotonic()

    def take(self) -> int | None:
        """Wait for a request to make; None at the end."""
        return self._todo.get()

    def finish(self, index: int, result: T) -> None:
        """Hand in the result of a request."""
        self._done.put((index, result))

    def again(self, index: int, reason: str) -> int:
        """Put back a request that failed, and return how often it has."""
        self._failures[index] += 1
        if self._failures[index] >= TRIES:
            self.fail(
                RolloutStopError(f"a request failed {TRIES} times, last at {reason}; see the server's log; {CURE}")
            )
        self._todo.put(index)
        return self._failures[index]

    def fail(self, error: Exception) -> None:
        """End the sampling with an error."""
        self._done.put(error)

    def next(self, patience: float) -> tuple[int, T] | None:
        """Wait for a result; None if nothing moves for too long."""
        while time.monotonic() - self._moved < patience:
            try:
                found = self._done.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(found, Exception):
                raise found
            return found
        return None

    def stop(self, threads: int) -> None:
        """Let all threads end."""
        self._ended.set()
        for _ in range(threads):
            self._todo.put(None)
