"""The process that compares by algebra; it may be killed at any time."""

import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from lit_g2rpo.rewards.running.algebra import comparison as _comparison

GRACE_SECONDS = 5.0
"""Time beyond the limit after which a process whose parent is gone ends itself."""


def main() -> None:
    """Answer pairs from a pipe until it closes; arguments: search path, descriptor, limits of time and memory."""
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
