"""The process that compares by algebra; it may be killed at any time."""

import json
import logging
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

GRACE_SECONDS = 5.0
"""Time beyond the limit after which a process whose parent is gone ends itself."""
MAX_READ = 2048
"""Results kept as read: the answers of a group share their gold result."""


def main() -> None:
    """Answer pairs from a pipe until it closes, or whether a result can be read where the answer of a pair is null.

    Its arguments: search path, descriptor, limits of time and memory.
    """
    connection = Connection(int(sys.argv[2]))
    seconds, memory = float(sys.argv[3]), int(sys.argv[4])
    try:
        compare = _comparison()
        compare("x+1", "1+x")  # the first comparison imports what the others need
    except Exception as error:
        connection.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    _limit(memory)
    connection.send_bytes(b"ready")
    while True:
        try:
            gold, answer = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # not caught: the default action ends the process even inside one long operation on integers
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            reply = b"true" if compare(gold, answer) else b"false"
        except MemoryError:
            reply = b"memory"
        except Exception:
            # math-verify raises on what it cannot read or compare
            reply = b"false"
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(reply)
        # Caches that grew to half the limit would make later comparisons fail for want of memory.
        if _size() > memory // 2:
            return


def _comparison() -> Callable[[str, str | None], bool]:
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]

    @lru_cache(MAX_READ)
    def read(text: str) -> Any:
        # its own time-outs are alarms; the parent's clock is the limit here
        return parse(f"\\boxed{{{text}}}", config, extraction_mode="first_match", parsing_timeout=None)

    def compare(gold: str, answer: str | None) -> bool:
        if answer is None:
            return not all(isinstance(found, str) for found in read(gold))
        # in this order: verify is not symmetric
        return bool(verify(read(gold), read(answer), timeout_seconds=None))

    return compare


def _limit(memory: int) -> None:
    if sys.platform.startswith("linux"):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _size() -> int:
    # not the peak that getrusage tells, which on Linux begins with that of the parent
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
