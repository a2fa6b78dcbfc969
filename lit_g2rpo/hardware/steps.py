"""Progress of the slow parts of a run: a bar on a terminal, an occasional line in a log, nothing for quick parts."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, Self, TypeVar

T = TypeVar("T")

SOON = 5.0
"""Seconds before a step is shown."""
PAUSES = (25.0, 30.0)
"""Seconds between the first lines in a log."""
PAUSE = 60.0
"""Seconds between the later ones."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables in which launchers tell each process its rank."""


class Step:
    """A part of a run that may take long, as a context or from `start` to `end`; only the first rank shows it.

    Args:
        what: what is being done, such as ``checking rows``.
        total: number of units; None if unknown.
        unit: name of the units, plural.
        after: seconds before its first line in a log.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "", after: float = SOON) -> None:
        self.what, self.total, self.unit, self.after = what, total, unit, after
        self.done = 0
        self._bar: Bar | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lines = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.end(kind is None)

    def start(self) -> Self:
        """Begin."""
        self._started = time.monotonic()
        if first_rank():
            self._thread = threading.Thread(target=self._watch, name="step", daemon=True)
            self._thread.start()
        return self

    def end(self, finished: bool = True) -> None:
        """Stop showing it; a log that has lines about it gets a last one, unless it was cut short."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._lines and finished:
            say(f"{self.what}: done in {clock(time.monotonic() - self._started)}")

    def advance(self, count: int = 1) -> None:
        """Count more units as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self.done)

    def line(self) -> str:
        """Describe the progress."""
        elapsed = time.monotonic() - self._started
        parts = [counted(self.done, self.total, self.unit), f"{clock(elapsed)} elapsed"]
        if self.total and self.done:
            parts.append(f"{clock(elapsed / self.done * (self.total - self.done))} left")
        return f"{self.what}: {', '.join(filter(None, parts))}"

    def _watch(self) -> None:
        terminal = on_terminal()
        for pause in chain([SOON if terminal else self.after], PAUSES, repeat(PAUSE)):
            if self._ended.wait(pause):
                return
            if terminal:
                with suppress(OSError, ValueError):
                    self._bar = Bar(self.what, self.total, self.unit, self.done, time.monotonic() - self._started)
                return
            self._lines += 1
            say(self.line())


def each(items: Collection[T], what: str, unit: str = "") -> Iterator[T]:
    """Yield items while a `Step` counts them; arguments are those of `Step`."""
    with Step(what, len(items), unit) as step:
        for item in items:
            yield item
            step.advance()


class Bar:
    """A bar at the bottom of the terminal, below any existing ones; text printed in the meantime appears above.

    Args:
        what: what is being done.
        total: number of units; None if unknown.
        unit: name of the units, plural.
        done: units done.
        elapsed: seconds since it began.
    """

    _lock = threading.RLock()
    _screen: Any = None

    def __init__(self, what: str, total: int | None, unit: str = "", done: int = 0, elapsed: float = 0.0) -> None:
        self._total, self._unit = total, unit
        self._first, self._started = done, time.monotonic() - elapsed
        with self._lock:
            if Bar._screen is None:
                Bar._screen = started_screen()
            count = counted(done, total, unit)
            self._task = Bar._screen.add_task(what, total=total, completed=done, count=count, left="", note="")
            Bar._screen.tasks[-1].start_time -= elapsed

    def update(self, done: int, note: str = "", at_once: bool = False) -> None:
        """Show how many units are done, followed by a note; rare units may be drawn immediately."""
        left = ""
        if self._total and done > self._first:
            pace = (time.monotonic() - self._started) / (done - self._first)
            left = f"{clock(pace * (self._total - done))} left"
        count = counted(done, self._total, self._unit)
        with self._lock:
            if Bar._screen is not None:
                Bar._screen.update(self._task, completed=done, count=count, left=left, note=note, refresh=at_once)

    def close(self) -> None:
        """Remove the bar."""
        with self._lock:
            if Bar._screen is not None:
                Bar._screen.remove_task(self._task)
                if not Bar._screen.task_ids:
                    Bar.clear()

    @staticmethod
    def clear() -> None:
        """Remove all bars."""
        with Bar._lock:
            shown, Bar._screen = Bar._screen, None
            # a closed terminal shows no bars
            with suppress(OSError, ValueError):
                if shown is not None:
                    shown.stop()


atexit.register(Bar.clear)


def started_screen() -> Any:
    """Start the display that draws all bars of this process."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{clock(task.elapsed or 0)} elapsed")

    screen = Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[count]}", markup=False),
        BarColumn(20),
        Elapsed(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
        # not the shared one, which may have been made while output went elsewhere
        console=Console(),
        transient=True,
    )
    screen.start()
    # a hidden cursor would stay hidden after a killed process
    screen.console.show_cursor(True)
    return screen


def counted(done: int, total: int | None, unit: str) -> str:
    """Format a count such as ``3/20 batches``; empty if nothing is counted."""
    return "" if total is None else f"{done:,}/{total:,} {unit}".rstrip()


def say(line: str) -> None:
    """Print a line, which may be lost if nobody reads it."""
    with suppress(OSError, ValueError):
        print(line, flush=True)


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def first_rank() -> bool:
    """Return whether this is the first or only process of a run, according to its launcher."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def clock(seconds: float) -> str:
    """Format a duration as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
