"""Ranks end with the first rank of their machine, which started them, even if it is killed during start-up."""

import os
import threading
import time

PARENT = "LIT_G2RPO_FIRST_RANK"
GRACE_SECONDS = 10.0
"""Seconds that a rank gets to end by itself, with its own error, after the first one is gone."""


def end_with_first_rank() -> None:
    """Watch the process that started this rank, if it was another rank."""
    if os.environ.get("LOCAL_RANK", "0") == "0" or PARENT not in os.environ:
        os.environ[PARENT] = str(os.getpid())
    else:
        threading.Thread(target=_watch, daemon=True).start()


def first_rank_is_gone() -> bool:
    """Return whether the process that started this rank has ended."""
    parent = int(os.environ.get(PARENT, os.getpid()))
    return parent not in (os.getpid(), os.getppid())


def _watch() -> None:
    while not first_rank_is_gone():
        time.sleep(1)
    time.sleep(GRACE_SECONDS)
    # print() needs a lock that the main thread may hold forever
    os.write(2, f"error: rank {os.environ['LOCAL_RANK']} ends, because rank 0 was killed\n".encode())
    os._exit(1)
