"""Time and peak memory of a piece of work, each piece in a process of its own."""

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
    """Measure a piece of work after one call that warms up.

    Args:
        work: what to measure.
        device: ``cpu`` or ``cuda``.
        repeats: measured calls; the quickest counts.

    Returns:
        ``seconds`` (of CPU time on a CPU, of time on a GPU) and ``peak_gib`` above what lay in memory before; on a CPU
        the peak is that of the first call, before the allocator keeps anything.
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
    """Count the peak anew from here.

    Args:
        device: ``cpu`` (Linux) or ``cuda``.

    Returns:
        Bytes held now: by tensors on a GPU, by the process on a CPU.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    count_peak_anew()
    return memory("VmRSS")


def peak_bytes(device: str) -> int:
    """Most bytes held since ``start_peak``.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return torch.cuda.max_memory_allocated() if device == "cuda" else memory("VmHWM")


def in_own_process(script: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run a script on one case in a new process.

    Args:
        script: the script; with ``--only JSON`` its last line is the result of that case as JSON.
        case: the case.

    Returns:
        The result, or ``{"skipped": why}`` if the process says so or fails.
    """
    command = [sys.executable, script, "--only", json.dumps(case)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode} (out of memory?)"]
        return {"skipped": lines[-1]}
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return result


def count_peak_anew() -> None:
    """Let this process's ``VmHWM`` start again from what it holds now, on Linux."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Read how much memory this process takes, on Linux.

    Args:
        name: ``VmRSS`` for now, ``VmHWM`` for the peak.

    Returns:
        Bytes.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
