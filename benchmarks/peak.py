"""Time and peak memory of a piece of work, each in its own process."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def measure(work: Callable[[], Any], device: str, repeats: int = 1) -> dict[str, float]:
    """Measure a piece of work after a warm-up call.

    Args:
        work: the work to measure.
        device: ``cpu`` or ``cuda``.
        repeats: measured calls; the fastest counts.

    Returns:
        ``seconds`` (CPU time on a CPU, wall-clock time on a GPU) and ``peak_gib`` above the memory in use before; on a
        CPU the peak is that of the first call, before the allocator caches anything.
    """
    if device == "cuda":
        work()
        before = start_peak(device)
    else:
        before = start_peak(device)
        work()
        peak = peak_bytes(device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    if device == "cuda":
        peak = peak_bytes(device)
    return {"seconds": min(seconds), "peak_gib": (peak - before) / 2**30}


def start_peak(device: str) -> int:
    """Reset the peak.

    Args:
        device: ``cpu`` (Linux) or ``cuda``.

    Returns:
        Bytes in use: by tensors on a GPU, by the process on a CPU.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    count_peak_anew()
    return memory("VmRSS")


def peak_bytes(device: str) -> int:
    """Return the most bytes in use since ``start_peak``.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return torch.cuda.max_memory_allocated() if device == "cuda" else memory("VmHWM")


def in_own_process(script: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run a script on one case in a new process.

    Args:
        script: the script; with ``--only JSON`` its last line is the case's result as JSON.
        case: the case.

    Returns:
        The result, or ``{"skipped": reason}`` if the process skips the case or fails.
    """
    command = [sys.executable, script, "--only", json.dumps(case)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode} (out of memory?)"]
        return {"skipped": lines[-1]}
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return result


def count_peak_anew() -> None:
    """Reset this process's ``VmHWM`` to its current memory, on Linux."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Read the memory of this process, on Linux.

    Args:
        name: ``VmRSS`` for the current memory, ``VmHWM`` for the peak.

    Returns:
        Bytes.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
