"""When one rank fails, all of them end, and its own error is the last one shown."""

import signal
import subprocess
import time

import lightning.pytorch as L
import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from lit_g2rpo.errors import RankError
from lit_g2rpo.hardware.parent import first_rank_is_gone

PATIENCE = 5.0
"""Seconds that other processes get to end by themselves."""
GRACE = 30.0
"""Seconds that this process gets to save and to report, once one that it started has died."""

_end_at_once = _ChildProcessObserver._terminate_all


def leave_time_to_end() -> None:
    """Keep Lightning from killing this process as soon as one that it started has died."""
    _ChildProcessObserver._terminate_all = _end_after_grace  # type: ignore[assignment]


def _end_after_grace(observer: _ChildProcessObserver) -> None:
    # for a process that waits for the dead one in a collective, and does not notice
    time.sleep(GRACE)
    _end_at_once(observer)


def end_ranks(trainer: L.Trainer, error: Exception) -> None:
    """End the processes that this one started, which may be waiting for it in a collective.

    Args:
        error: why the trainer failed on this rank; a note with the rank is added to it.

    Raises:
        RankError: if this rank failed only because another one is gone.
    """
    if trainer.world_size == 1:
        return
    # Lightning's own launcher starts a machine's other processes from the first one
    others: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    deadline = time.monotonic() + PATIENCE
    codes = [_code(process, deadline) for process in others]
    for process in others:
        if process.poll() is None:
            process.kill()
    if lost_connection(error):
        failed = {trainer.global_rank + 1 + i: code for i, code in enumerate(codes) if code}
        raise RankError(f"rank {trainer.global_rank} stops, because {_what_failed(failed)}") from None
    error.add_note(f"rank {trainer.global_rank} of {trainer.world_size}; all ranks end")


def _what_failed(codes: dict[int, int]) -> str:
    """Describe which rank failed, given the exit codes of the ranks that this one started."""
    for rank, code in codes.items():
        if code < 0:
            # the others ended because this one is gone, and it could not report anything
            return f"rank {rank} was killed ({signal.Signals(-code).name}{', out of memory?' if code == -9 else ''})"
    if first_rank_is_gone():
        return "rank 0 was killed"
    return f"{f'rank {min(codes)}' if codes else 'another rank'} has failed; see its error"


def lost_connection(error: Exception) -> bool:
    """Return whether an error only says that the process at the other end is gone."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError | dist.DistBackendError):
        return True
    # gloo has no error type of its own
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)


def _code(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Wait for the exit code of a process; None if it still runs at the deadline."""
    try:
        return process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        return None
