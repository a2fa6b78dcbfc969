"""A thread that watches the other ranks while the main thread may wait for one of them without handling signals."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning.pytorch as L
import torch.distributed as dist

from lit_g2rpo.hardware.collectives import PROGRESS

ANSWER_SECONDS = 5.0
"""Seconds that the main thread has to handle a signal before it is considered to be waiting."""
BEATS = 12
"""Heartbeats within the time after which a rank counts as silent."""


class RankWatch:
    """Report which rank this one is waiting for, and handle signals that the main thread does not.

    Every rank writes a heartbeat and its progress to the store of the process group. A rank without heartbeats is
    stopped or gone; one with heartbeats that is behind this one hangs, or is slow.

    Args:
        rank: this rank.
        count: number of ranks.
        store: a store of the process group, used only by this.
        seconds: how long to wait for a rank, or for its heartbeat, before reporting it.
        rescue: saves what can be saved without the others, and describes it in one line.
        end: ends this process and those it started, with an exit code.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        store: Any,
        seconds: float,
        rescue: Callable[[], str],
        end: Callable[[int], None],
    ) -> None:
        self.rank, self.seconds = rank, seconds
        self._store, self._rescue, self._end = store, rescue, end
        now = time.monotonic()
        # each other rank's last heartbeat, and when this rank first saw it
        self._signs = {other: ("", now) for other in range(count) if other != rank}
        self._own, self._since, self._said_after = PROGRESS.count, now, seconds
        self._rescued = ""
        self._heard = threading.Event()
        self._deaf = False
        self._closed = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def heard(self) -> None:
        """Record that the main thread has handled a signal, and so is not waiting."""
        self._heard.set()

    def close(self) -> None:
        """Stop watching; call this in the main thread."""
        signal.set_wakeup_fd(self._former)
        self._closed.set()

    def _beat(self) -> None:
        beat = 0
        while not self._closed.wait(self.seconds / BEATS):
            beat += 1
            try:
                self._store.set(f"beat/{self.rank}", f"{beat} {PROGRESS.count}")
                for other, (sign, _) in self._signs.items():
                    new = self._store.get(f"beat/{other}").decode()
                    if new != sign:
                        self._signs[other] = (new, time.monotonic())
            except dist.DistError:
                # the rank that hosts the store is silent, which shows because no heartbeat changes
                continue

    def _watch(self) -> None:
        while not self._closed.is_set():
            if select.select([self._read], [], [], self.seconds / BEATS)[0]:
                for number in os.read(self._read, 64):
                    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                        self._answer(number)
            now = time.monotonic()
            if self._own != PROGRESS.count:
                self._own, self._since, self._said_after = PROGRESS.count, now, self.seconds
                self._rescued, self._deaf = "", False
            elif now - self._since > self._said_after and (waited := self._waited_for(self.seconds / 2)):
                self._said_after *= 2
                _say(f"rank {self.rank} waits: {waited}")
                self._save(self._silent(self.seconds / 2))

    def _answer(self, number: int) -> None:
        if self._heard.wait(1.0 if self._deaf else ANSWER_SECONDS):
            self._heard.clear()
            return
        name = signal.Signals(number).name
        if self._deaf:
            _say(f"{name} again: rank {self.rank} ends without saving more")
            self._end(128 + number)
        self._deaf = True
        waited = self._waited_for(ANSWER_SECONDS) or "it is at work, and saves at the next optimizer step"
        _say(f"{name}: rank {self.rank} cannot stop yet; {waited}; a second signal ends it")
        self._save(self._silent(ANSWER_SECONDS))

    def _save(self, silent: list[int]) -> None:
        # only the first of the responsive ranks saves
        if silent and not self._rescued and silent[: self.rank] == list(range(self.rank)):
            self._rescued = self._rescue()
            _say(self._rescued)

    def _silent(self, seconds: float) -> list[int]:
        seconds += 2 * self.seconds / BEATS
        return [other for other, (_, at) in self._signs.items() if time.monotonic() - at > seconds]

    def _waited_for(self, seconds: float) -> str:
        silent = self._silent(seconds)
        if silent:
            gone = time.monotonic() - min(self._signs[other][1] for other in silent)
            return f"{_ranks(silent)} has been silent for {gone:.0f} s (stopped, or its machine is gone)"
        behind = [other for other, (sign, _) in self._signs.items() if sign and int(sign.split()[1]) < PROGRESS.count]
        waited = time.monotonic() - self._since
        return f"{_ranks(behind)} has been behind for {waited:.0f} s (it is slow, or hangs)" if behind else ""


def end_at_once(trainer: L.Trainer, code: int) -> None:
    """End this process and those it started, from any thread, with an exit code."""
    for process in getattr(trainer.strategy.launcher, "procs", []):
        process.kill()
    os._exit(code)


def _ranks(numbers: list[int]) -> str:
    return "rank " + ", ".join(map(str, numbers))


def _say(line: str) -> None:
    # print() needs a lock that the main thread may hold; the terminal may be gone
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
