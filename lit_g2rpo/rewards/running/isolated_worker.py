"""The process that runs user code; it may be killed at any time."""

import json
import os
import pickle
import resource
import select
import signal
import sys
import threading
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.output import lossy_output
from lit_g2rpo.registry import one_line
from lit_g2rpo.rewards.compose import score
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.outcome import Failure
from lit_g2rpo.rewards.running.user import Outcome, Tell, UserReward

GRACE_SECONDS = 5.0
"""CPU seconds beyond the limit after which the process ends itself, since its parent may be gone."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that schedulers send to all processes of a job; the trainer handles them."""


class OutsideRules:
    """The built-in reward, for rows with a custom problem type."""

    batched = False

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    def score(self, batch: Batch, tell: Tell) -> None:
        """Score completions, as `UserReward.score` does."""
        for i, (completion, sample) in enumerate(zip(batch.completions, batch.samples, strict=True)):
            result = score(completion, sample, self.config)
            if result.failure is None:
                tell(i, result)
                continue
            message = result.failure.strip().splitlines()[-1]
            tell(i, Failure(str(result.error), message, result.failure))


def main() -> None:
    """Answer batches from a pipe until it closes; arguments: search path, descriptor, settings."""
    # a failing print must not fail the reward
    with lossy_output():
        _answer(Connection(int(sys.argv[2])), json.loads(sys.argv[3]))


def _answer(connection: Connection, settings: dict[str, Any]) -> None:
    sys.argv[:] = ["reward"]
    _prepare(connection.fileno(), settings["memory"])
    try:
        reward = _reward(settings)
    except UserError as error:
        _send(connection, {"mistake": str(error)})
        return
    except BaseException as error:
        _send(connection, {"mistake": f"{settings['where']}: its module ends the process ({type(error).__name__})"})
        return
    reads = sorted(reward.adapter.reads) if isinstance(reward, UserReward) else []
    together = reward.batched or (isinstance(reward, UserReward) and reward.adapter.is_async)
    _send(connection, {"batched": reward.batched, "together": together, "reads": reads})
    limit = settings["seconds"] and settings["seconds"] + GRACE_SECONDS
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        try:
            batch = pickle.loads(request)
        except Exception as error:
            _send(connection, {"mistake": f"a row cannot be read in the process of the reward ({one_line(error)})"})
            continue

        def tell(i: int, outcome: Outcome) -> None:
            signal.setitimer(signal.ITIMER_PROF, limit)
            kind = "failure" if isinstance(outcome, Failure) else "result"
            _send(connection, {"i": i, kind: asdict(outcome)})

        # not caught: the default action ends the process even during one long operation
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            reward.score(batch, tell)
        except UserError as error:
            _send(connection, {"mistake": str(error)})
        else:
            _send(connection, {"done": True})
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reward(settings: dict[str, Any]) -> UserReward | OutsideRules:
    config = RewardConfig(**settings["config"])
    if settings["path"] is None:
        return OutsideRules(config)
    return UserReward(settings["path"], config, settings["waiting"], settings["where"])


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _prepare(descriptor: int, memory: int) -> None:
    for number in SIGNALS:
        # a handler instead of SIG_IGN, which processes started by a reward would inherit
        signal.signal(number, lambda *_: None)
    # processes started by a reward must not answer for it or keep the pipe open after it ends
    os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=lambda: _part(descriptor))
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    if sys.platform.startswith("linux"):
        if memory:
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
            # not the address space: a GPU driver reserves more of it than there is memory
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        # if memory still runs out, this process is killed before the trainer
        Path("/proc/self/oom_score_adj").write_text("1000")


def _part(descriptor: int) -> None:
    os.close(descriptor)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _end_with_parent(descriptor: int) -> None:
    closed = select.poll()
    closed.register(descriptor, 0)
    closed.poll()
    os.killpg(0, signal.SIGKILL)
