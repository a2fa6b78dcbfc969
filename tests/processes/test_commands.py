"""What a test starts ends with it: when it fails, when it is interrupted, and when the tests themselves are killed."""

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from helpers.processes import Commands, alive, eventually

# a command, and one that it starts in turn, as the first rank starts the others
COMMAND = """
import os, subprocess
other = subprocess.Popen(["sleep", "600"])
print(os.getpid(), other.pid, flush=True)
other.wait()
"""
TEST = f"""
import os, sys, time

def test_that_starts_something(commands):
    process = commands.start(sys.executable, "-c", {COMMAND!r})
    sys.__stderr__.write("pids " + process.stdout.readline())
    sys.__stderr__.flush()
"""


@pytest.mark.parametrize(
    ("last", "number", "options"),
    [
        ("assert False", None, []),
        ("time.sleep(600)", signal.SIGINT, []),
        ("time.sleep(600)", signal.SIGTERM, []),
        ("time.sleep(600)", signal.SIGKILL, []),
        ("time.sleep(600)", signal.SIGKILL, ["-p", "xdist.plugin", "-n", "1"]),
    ],
    ids=["failed", "interrupted", "terminated", "killed", "killed with a worker"],
)
def test_no_process_is_left(
    tmp_path: Path, commands: Commands, last: str, number: signal.Signals | None, options: list[str]
) -> None:
    (tmp_path / "test_inner.py").write_text(TEST + textwrap.indent(last, "    "))
    inner = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "helpers.processes", "-c", "/dev/null", "test_inner.py"]
    # only the plugin that is tried, since the others take their time
    process = commands.start(*inner, *options, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    assert process.stderr
    line = process.stderr.readline()
    assert line.startswith("pids "), line
    started = [int(word) for word in line.split()[1:]]
    assert len(started) == 2
    if number is not None:
        assert all(map(alive, started))
        process.send_signal(number)
    assert process.wait() != 0
    # what a watcher ends, ends a moment later
    eventually(lambda: not any(map(alive, started)))
