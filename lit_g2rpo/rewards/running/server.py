"""The parent's side of the algebra processes: a server with everything imported, and its workers."""

import json
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle

START_SECONDS = 120.0
END_SECONDS = 10.0
# A fresh interpreter, not multiprocessing's spawn: that imports the caller's main module again and is not allowed in
# daemons such as data loader workers. Not a fork either: that is unsafe once CUDA is up.
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lit_g2rpo.rewards.running.worker import main; main()"
)


class Server:
    """A process that forks workers, so that a killed worker is replaced at once, without seconds of imports.

    Args:
        seconds: limit of a worker's CPU seconds per comparison.
        memory: memory limit of a worker, bytes.

    ``wrong`` says why it did not start; empty if it did.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._control, theirs = Pipe()
        settings = [json.dumps(sys.path), str(theirs.fileno()), str(seconds), str(memory)]
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *settings],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # its own session: Ctrl-C goes to the parent, which ends it; it reports errors through the pipe
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        try:
            said = self._control.recv_bytes().decode() if self._control.poll(START_SECONDS) else "late"
        except (EOFError, OSError):
            said = "ended"
        self.wrong = "" if said == "ready" else said

    def fork(self) -> "Worker | None":
        """Fork a worker; None if the server has died."""
        connection, theirs = Pipe()
        try:
            with self._lock:
                self._control.send_bytes(b"fork")
                send_handle(self._control, theirs.fileno(), self.process.pid)
                pid = int(self._control.recv_bytes())
        except (EOFError, OSError):
            connection.close()
            return None
        finally:
            theirs.close()
        return Worker(self, pid, connection)

    def reap(self, pid: int) -> int | None:
        """End a worker and return its exit code; None if the server has died, which ends its workers too."""
        try:
            with self._lock:
                self._control.send_bytes(str(pid).encode())
                return int(self._control.recv_bytes())
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """End the server and all its remaining workers."""
        self._control.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it hangs while importing
            self.process.kill()
            self.process.wait()

    def leave(self) -> None:
        """Close the pipe in a process forked from the parent, which does not own the server."""
        self._control.close()


class Worker:
    """A process that compares results, and the parent's end of its pipe."""

    def __init__(self, server: Server, pid: int, connection: Connection) -> None:
        self.server, self.pid, self.connection = server, pid, connection

    def ask(self, gold: str, answer: str | None, seconds: float) -> str:
        """Return its reply to a pair; ``late`` after the given wall-clock seconds, ``ended`` if it has ended."""
        try:
            self.connection.send_bytes(json.dumps([gold, answer]).encode())
            return self.connection.recv_bytes().decode() if self.connection.poll(seconds) else "late"
        except (EOFError, OSError):
            return "ended"

    def end(self) -> int | None:
        """End it and return its exit code, if the server still knows it."""
        code = self.server.reap(self.pid)
        self.connection.close()
        return code
