"""The processes of a sweep: several at a time, each with its output in a file; a failure does not stop the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any

from lit_g2rpo.cli.sweep.progress import Progress
from lit_g2rpo.cli.sweep.runs import SweepRun, command

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BETWEEN_LOOKS = 0.3


@dataclass(slots=True)
class Outcome:
    """The outcome of a sweep's runs.

    Args:
        failed: the reason for each run that failed, one line.
        stopped: rollouts done by each run that ended before its last rollout without an error.
        waiting: runs that were not started.
    """

    failed: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    waiting: list[SweepRun] = field(default_factory=list)


@dataclass(slots=True)
class _Child:
    run: SweepRun
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    slot: int


class Processes:
    """Execute the runs of a sweep.

    The first signal from a person, a scheduler or a closing terminal is passed on to the runs, which save and exit, and
    no more runs start; the second one makes them exit without saving, and the third one kills them.

    Args:
        parallel: number of runs at a time.
        progress: shows the progress of each run.
        environment: environment of the runs in each slot.
    """

    def __init__(self, parallel: int, progress: Progress, environment: Callable[[int], Mapping[str, str]]) -> None:
        self.parallel, self.progress, self.environment = parallel, progress, environment
        self.signals = 0
        self._children: list[_Child] = []

    def run(self, runs: Sequence[SweepRun]) -> Outcome:
        """Execute them in order."""
        outcome = Outcome(waiting=list(runs))
        # a process started with nohup ignores a closing terminal
        taken = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._pass_on) for number in taken}
        try:
            while self._children or (outcome.waiting and not self.signals):
                while outcome.waiting and len(self._children) < self.parallel and not self.signals:
                    self._start(outcome.waiting.pop(0))
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for child in list(self._children):
                    self.progress.look(child.run)
                    if child.process.poll() is not None:
                        self._end(child, outcome)
        finally:
            for child in self._children:
                _kill(child.process)
            for number, handler in before.items():
                signal.signal(number, handler)
        return outcome

    def _start(self, run: SweepRun) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        log = run.log.open("ab")
        slot = next(slot for slot in range(self.parallel) if slot not in [child.slot for child in self._children])
        process = subprocess.Popen(
            [sys.executable, "-m", "lit_g2rpo", *command(run)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment(slot),
            # Ctrl-C in the terminal only reaches the sweep, which passes it on once
            start_new_session=True,
        )
        self._children.append(_Child(run, process, log, slot))
        self.progress.start(run)
        if self.signals:
            self._send(signal.SIGINT, self._children[-1])

    def _end(self, child: _Child, outcome: Outcome) -> None:
        self._children.remove(child)
        child.log.close()
        run, code = child.run, child.process.returncode
        # end ranks left behind by a killed run
        _kill(child.process)
        if not code and run.finished():
            ending = "finished"
        elif code and not self.signals:
            outcome.failed[run.name] = reason(run, code)
            ending = f"failed: {outcome.failed[run.name]}"
        else:
            outcome.stopped[run.name] = run.done() or 0
            ending = f"stopped after {outcome.stopped[run.name]} of {run.rollouts} rollouts"
        self.progress.end(run, ending)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        for child in self._children:
            self._send(signal.SIGKILL if self.signals > 2 else signal.SIGINT, child)
        words = (
            "the runs save and leave (Ctrl-C again: without saving)",
            "the runs leave (Ctrl-C again kills them)",
            "",
        )
        with suppress(OSError):
            os.write(2, f"\n{signal.Signals(number).name}: {words[min(self.signals, 3) - 1]}\n".encode())

    def _send(self, number: signal.Signals, child: _Child) -> None:
        if number == signal.SIGKILL:
            _kill(child.process)
        else:
            with suppress(ProcessLookupError):
                child.process.send_signal(number)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reason(run: SweepRun, code: int) -> str:
    """Explain in one line why a run failed: its own message, or how its process ended."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    with suppress(OSError):
        lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
        if said := [line for line in lines if line.startswith("error: ")] or [line for line in lines if line.strip()]:
            return f"{said[-1].strip()} ({how})"
    return how
