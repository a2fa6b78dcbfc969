"""Commands that end with the test that started them, however it ends: a pytest plugin with fixtures."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest

# a shell that runs the tests in the background makes them, and all their children, ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HANG_SECONDS = 900.0
"""Wall-clock time after which a command is considered hung: a guard, not a limit, since a busy machine may be slow."""


WATCH = "read -r _; kill -s KILL -- -$1"
"""Kill a process group once the pipe to this shell closes, which also happens when the tests are killed."""


class Commands:
    """Start commands in their own process groups, and end whole groups, including ranks started by a command."""

    def __init__(self) -> None:
        self._started: list[tuple[subprocess.Popen[str], subprocess.Popen[bytes], threading.Timer]] = []

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command with output to pipes; options are those of ``Popen``."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [str(word) for word in words]
        process = subprocess.Popen(command, text=True, start_new_session=True, **(pipes | options))
        watch = ["sh", "-c", WATCH, "sh", str(process.pid)]
        watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        guard = threading.Timer(HANG_SECONDS, _kill, [process])
        guard.daemon = True
        guard.start()
        self._started.append((process, watcher, guard))
        return process

    def run(self, *words: object, input: str | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Wait until a command and all processes that share its pipes have ended."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*words, **options)
        out, errors = process.communicate(input)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def python(self, *words: object, **options: Any) -> str:
        """Run Python, which must succeed, and return its output."""
        done = self.run(sys.executable, *words, **options)
        assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def end(self) -> None:
        """Kill the remaining processes of every command."""
        while self._started:
            process, watcher, guard = self._started.pop()
            guard.cancel()
            watcher.kill()
            _kill(process)
            for ended in (process, watcher):
                ended.wait()
                for pipe in (ended.stdin, ended.stdout, ended.stderr):
                    if pipe is not None:
                        pipe.close()


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_until(pipe: IO[str] | None, start: str) -> str:
    """Read lines until one starts with a prefix, and return them."""
    assert pipe is not None
    seen = ""
    for line in pipe:
        seen += line
        if line.startswith(start):
            return seen
    raise AssertionError(f"the output ended without {start!r}:\n{seen}")


def finished(process: subprocess.Popen[str]) -> "subprocess.CompletedProcess[str]":
    """Wait for a command after reading some of its lines; ``communicate`` would lose buffered output."""
    out = process.stdout.read() if process.stdout else ""
    errors = process.stderr.read() if process.stderr else ""
    return subprocess.CompletedProcess(process.args, process.wait(), out, errors)


def eventually(holds: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + HANG_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_seconds() -> float:
    """Return the CPU time of all waited-for child processes and their descendants."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def commands() -> Iterator[Commands]:
    """Commands that end with the test, also if it fails or is interrupted."""
    started = Commands()
    yield started
    started.end()


@pytest.fixture(scope="module")
def shared_commands() -> Iterator[Commands]:
    """Commands that end with the module's last test, for results shared by several tests."""
    started = Commands()
    yield started
    started.end()
