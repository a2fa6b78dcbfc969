"""User code in a separate process that can be killed: a call that hangs or crashes costs one completion."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.registry import one_line
from lit_g2rpo.rewards.compose import RewardResult
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.outcome import Failure
from lit_g2rpo.rewards.running.user import Outcome

START_SECONDS = 1800.0
"""Wall-clock seconds to import a module, which may load a model."""
WALL_FACTOR = 5
"""Wall-clock limit of a call, as a multiple of its CPU-time limit."""
GRACE_SECONDS = 5.0
"""Extra seconds in which the process itself gives up an awaited call."""
POLL_SECONDS = 0.2
PATIENCE = 5
"""Consecutive time-outs after which no further call is tried, since each would take its full limit."""
CRASHED = "crashed"
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from lit_g2rpo.rewards.running.isolated_worker import main; main()"
)


class IsolatedReward:
    """A reward function in a separate process, which starts at once and is restarted after it was killed.

    Args:
        path: its import path; None for the rules of custom problem types.
        config: settings of the reward.
        limits: limits of a call.
        where: the key that names it, for messages.

    ``restarts`` counts processes that a limit ended, or that died.

    Raises:
        UserError: if it cannot be found or has an unknown signature.
    """

    def __init__(self, path: str | None, config: RewardConfig, limits: Limits, where: str = "reward") -> None:
        self.name, self.restarts = path or "rule", 0
        self.seconds = limits.user_seconds or math.inf
        self._where = where if path is None else f"{where} is {path!r}"
        self._settings = json.dumps({
            "path": path, "where": where, "config": asdict(config), "seconds": limits.user_seconds,
            "waiting": limits.user_seconds * WALL_FACTOR, "memory": limits.user_memory << 20,
        })  # fmt: skip
        # also for processes that start later, after code in this one may have changed folders
        self._folder = os.getcwd()
        self._process: _Process | None = None
        self._ready()

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Score ``N`` completions.

        Returns:
            ``N`` scores, each of which may be a `Failure` instead.

        Raises:
            UserError: if the function asks for a column that no row has, or a row cannot be sent.
        """
        outcomes: dict[int, Outcome] = {}
        again: set[int] = set()
        late = 0
        calls = deque([list(range(len(batch.completions)))])
        while calls:
            indices = calls.popleft()
            if late >= PATIENCE:
                message = f"not tried: {PATIENCE} calls in a row gave no value in time"
                outcomes |= dict.fromkeys(indices, Failure("timeout", message))
                continue
            known = len(outcomes)
            failure = self._ask(batch, indices, outcomes)
            late = 0 if len(outcomes) > known else late
            if failure is None:
                continue
            late += failure.code == "timeout"
            missing = [i for i in indices if i not in outcomes]
            if not missing:
                continue
            if self.together and len(indices) > 1:
                # It is unknown which one it was.
                calls.extend([i] for i in missing)
                again |= set(missing)
                continue
            first = missing[0]
            if failure.code == CRASHED and first not in again:
                # It may have been killed from outside.
                again.add(first)
                calls.append([first])
            else:
                outcomes[first] = failure
            if missing[1:]:
                calls.append(missing[1:])
        return [outcomes[i] for i in range(len(batch.completions))]

    def close(self) -> None:
        """End the process; a later call starts another one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _ready(self) -> "_Process":
        if self._process is None:
            process = self._process = _Process(self._settings, self._folder)
            hello = process.receive(math.inf, START_SECONDS)
            if isinstance(hello, Failure):
                self.close()
                raise UserError(f"{self._where}, whose module cannot be imported ({hello.message})")
            self._raise_mistake(hello)
            self.batched: bool = hello["batched"]
            self.together: bool = hello["together"]
            self.reads: list[str] = hello["reads"]
        return self._process

    def _raise_mistake(self, reply: dict[str, Any]) -> None:
        if "mistake" in reply:
            self.close()
            raise UserError(reply["mistake"])

    def _ask(self, batch: Batch, indices: list[int], outcomes: dict[int, Outcome]) -> Failure | None:
        """Add outcomes as they arrive; return a failure if the process ended before all did."""
        process = self._ready()
        process.send(self._packed(batch.only(indices)))
        while True:
            reply = process.receive(self.seconds, self.seconds * WALL_FACTOR + GRACE_SECONDS)
            if isinstance(reply, Failure):
                self.close()
                self.restarts += 1
                if reply.code == "timeout":
                    warnings.warn(f"reward {self.name} gave {reply.message}: its process is ended", stacklevel=2)
                return reply
            self._raise_mistake(reply)
            if "done" in reply:
                return None
            found = reply.get("failure")
            outcomes[indices[reply["i"]]] = Failure(**found) if found else RewardResult(**reply["result"])

    def _packed(self, batch: Batch) -> bytes:
        images = batch.images if "images" in self.reads else None
        token_ids = batch.token_ids if "token_ids" in self.reads else None
        try:
            return pickle.dumps(replace(batch, images=images, token_ids=token_ids), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise UserError(
                f"{self._where}: a row cannot be sent to its process ({one_line(error)}); keep rows to plain data, or "
                "set in_process: true of the task"
            ) from error


class _Process:
    """A separate interpreter in its own session, and this end of the pipe to it."""

    def __init__(self, settings: str, folder: str) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", _START, json.dumps(sys.path), str(theirs.fileno()), settings],
            pass_fds=[theirs.fileno()],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            # the output of a function goes to stderr, like warnings
            stdout=2,
            start_new_session=True,
        )
        theirs.close()

    def send(self, request: bytes) -> None:
        # `receive` also notices a closed end
        with suppress(OSError):
            self.connection.send_bytes(request)

    def receive(self, seconds: float, wall: float) -> dict[str, Any] | Failure:
        """Wait for a message within limits of CPU time and wall-clock time, in seconds; infinity means no limit."""
        start, deadline = self._cpu(), time.monotonic() + wall
        try:
            while not self.connection.poll(POLL_SECONDS):
                if self._cpu() - start > seconds:
                    return Failure("timeout", f"no value within {seconds:g} s of CPU time")
                if time.monotonic() > deadline:
                    return Failure("timeout", f"no value within {wall:g} s")
            reply: dict[str, Any] = json.loads(self.connection.recv_bytes())
            return reply
        except (EOFError, OSError):
            return Failure(CRASHED, f"its process ended ({self._ending()})")

    def _ending(self) -> str:
        try:
            code = self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "it has closed its pipe"
        if code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name + (", out of memory?" if code == -signal.SIGKILL else "")

    def _cpu(self) -> float:
        if not sys.platform.startswith("linux"):
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        # including every process that the function started
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
