"""The algebra processes: a server that imports once, and workers forked from it that may be killed."""

import gc
import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path

from lit_g2rpo.rewards.running.algebra import Compare, TooLarge
from lit_g2rpo.rewards.running.algebra import comparison as _comparison


def main() -> None:
    """Fork and end workers as the parent asks, until it closes the pipe.

    Arguments: search path, descriptor of the pipe, and a worker's limits of CPU time (seconds) and memory (bytes).
    """
    control = Connection(int(sys.argv[2]))
    seconds, memory = float(sys.argv[3]), int(sys.argv[4])
    try:
        compare = _comparison()
        compare("x+1", "1+x")  # the first comparison imports what later ones need
    except Exception as error:
        control.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    gc.freeze()
    control.send_bytes(b"ready")
    workers: set[int] = set()
    while True:
        try:
            asked = control.recv_bytes()
        except EOFError:
            break
        if asked == b"fork":
            handle = recv_handle(control)
            worker = os.fork()
            if worker == 0:
                control.close()
                try:
                    serve(Connection(handle), compare, seconds, memory)
                finally:
                    os._exit(0)
            os.close(handle)
            workers.add(worker)
            control.send_bytes(str(worker).encode())
        else:
            # two threads may ask for this; by the second time the id may be another process
            worker = int(asked)
            code = _end(worker) if worker in workers else 0
            workers.discard(worker)
            control.send_bytes(str(code).encode())
    for worker in workers:
        _end(worker)


def serve(connection: Connection, compare: Compare, seconds: float, memory: int) -> None:
    """Answer pairs from a pipe until it closes.

    Args:
        seconds: CPU time after which one comparison ends the process.
        memory: memory limit of the process, bytes.
    """
    _limit(memory)
    # the default action ends the process even during one long integer operation; others may have changed it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    while True:
        try:
            gold, answer = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply = b"true" if compare(gold, answer) else b"false"
        except MemoryError:
            reply = b"memory"
        except TooLarge:
            reply = b"large"
        except Exception:
            # math-verify raises if it cannot read or compare a result
            reply = b"false"
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(reply)
        # Caches beyond half the limit would make later comparisons run out of memory.
        if _size() > memory // 2:
            return


def _end(worker: int) -> int:
    """End a worker, if it is still running, and return its exit code; for a signal, its negative number."""
    os.kill(worker, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def _limit(memory: int) -> None:
    if sys.platform.startswith("linux"):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _size() -> int:
    # not getrusage's peak, which on Linux starts from the parent's
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
