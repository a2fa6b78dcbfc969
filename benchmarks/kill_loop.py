"""Kill runs at random, resume them, and compare each with an uninterrupted run: ``kill_loop.py 100``.

Half of the kills happen at a random moment, half at a random change of a file in the run's folder. All are signal 9. A
run is killed up to three times and then finishes. Weights, optimizer state, curves, recorded rollouts and predictions
are compared bit for bit; only durations may differ.
"""

import argparse
import importlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.__main__ import main

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "g2rpo.yaml"
CHANGES = ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate")
MOST_KILLS = 3
Kill = Callable[[list[str]], list[int]]
PRELOADED = ("lit_g2rpo.callbacks", "lit_g2rpo.cli.trainer", "lit_g2rpo.mini.data", "lit_g2rpo.module")
"""Import everything that a run needs, once for all forks."""


def words(folder: Path, rollouts: int, ranks: int) -> list[str]:
    """Build the command line of a shortened default run, without its verb."""
    sizes = {
        "schedule.rollouts": rollouts,
        "schedule.validate_every": 2,
        "schedule.checkpoint_every": 2,
        "model.rollout.prompts": 6 * ranks,
        "model.rollout.group_size": 4,
        "data.val_per_task": 2,
        "data.train_per_task": 40,
        "data.max_completion_tokens": 48,
        "trainer.logger.init_args.save_dir": folder,
        "trainer.devices": ranks,
        "trainer.accelerator": "cpu",
    }
    strategy = ["--trainer", str(CONFIG.parent / "strategy" / "ddp.yaml")] if ranks > 1 else []
    return [
        "--config",
        str(CONFIG),
        "--trainer",
        str(trainer_of(folder.parent)),
        *strategy,
        *(f"--{key}={value}" for key, value in sizes.items()),
    ]


def trainer_of(folder: Path) -> Path:
    """Write the default trainer's config with every rollout recorded."""
    trainer = yaml.safe_load((CONFIG.parent / "trainer" / "default.yaml").read_text())
    for callback in trainer["callbacks"]:
        if callback["class_path"].endswith(".RolloutLog"):
            callback["init_args"]["write_every"] = 1
    trainer["logger"] = str(CONFIG.parent / "logger" / "tensorboard.yaml")
    path = folder / "trainer.yaml"
    path.write_text(yaml.safe_dump(trainer))
    return path


def run_rank(arguments: list[str], folder: Path, environment: dict[str, str], change: int, log: Path) -> None:
    """Run one rank, and die at a change of a file.

    Args:
        arguments: the command line.
        folder: folder in which changes of files count.
        environment: variables that identify the rank.
        change: number of the change to die at; 0 for none.
        log: file for the output; ``<log>.changes`` gets the number of changes.
    """
    os.environ |= environment
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    counted = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal counted
        writes = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(folder) in str(values[0]):
            counted += 1
            if counted == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    code = main(arguments)
    log.with_suffix(".changes").write_text(str(counted))
    os._exit(code)


def start(arguments: list[str], folder: Path, ranks: int, change: int = 0) -> list[BaseProcess]:
    """Start every rank of a run as a fork of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    fork = multiprocessing.get_context("fork")
    environments: list[dict[str, str]] = [{}]
    if ranks > 1:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        environments = [place | {"LOCAL_RANK": str(rank), "NODE_RANK": "0"} for rank in range(ranks)]
    found = []
    for rank, environment in enumerate(environments):
        log = folder / f"log{rank}.txt"
        aimed = change if rank == 0 else 0
        found.append(fork.Process(target=run_rank, args=(arguments, folder, environment, aimed, log)))
        found[-1].start()
    return found


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def finish(processes: list[BaseProcess]) -> list[int]:
    """Wait for all ranks; after one dies, the others have a minute to end by themselves.

    Returns:
        Exit code of each rank.
    """
    while all(process.exitcode is None for process in processes):
        time.sleep(0.02)
    for process in processes:
        process.join(60)
        if process.exitcode is None:
            print(f"  a rank outlived its run: process {process.pid}", flush=True)
            process.kill()
            process.join()
    return [int(process.exitcode or 0) for process in processes]


def complete(folder: Path, rollouts: int, ranks: int, kills: Iterator[Kill]) -> int:
    """Kill and resume a run until it finishes.

    Args:
        folder: its folder.
        kills: functions that start the run, kill it and return the exit codes.

    Returns:
        Number of kills.

    Raises:
        SystemExit: if it cannot be resumed.
    """
    killed, codes = 0, [-signal.SIGKILL]
    for kill in kills:
        codes = kill(resumed(folder, rollouts, ranks))
        if -signal.SIGKILL not in codes:
            break
        killed += 1
    if -signal.SIGKILL in codes:
        codes = finish(start(resumed(folder, rollouts, ranks), folder, ranks))
    if any(codes):
        raise SystemExit(f"{folder} cannot be resumed: exit {codes}; see {folder}/log0.txt")
    return killed


def test(folder: Path, rollouts: int) -> None:
    """Write the predictions of a finished run."""
    last = str(next(folder.glob("*/version_0/checkpoints/last.ckpt")))
    arguments = ["test", *words(folder, rollouts, 1), "--data.limit=24", "--ckpt_path", last]
    if any(finish(start(arguments, folder, 1))):
        raise SystemExit(f"{folder} cannot be tested; see {folder}/log0.txt")


def resumed(folder: Path, rollouts: int, ranks: int) -> list[str]:
    """Build the command that resumes, or that starts if nothing was saved yet."""
    saved = list(folder.glob("*/version_0/checkpoints/*.ckpt"))
    version = ["--trainer.logger.init_args.version=0"]
    return ["fit", *words(folder, rollouts, ranks), *version, *(["--ckpt_path", "last"] if saved else [])]


def outcome(folder: Path) -> dict[str, Any]:
    """Collect everything that a run leaves except durations."""
    run = next(folder.glob("*/version_0"))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("perf/") and not tag.endswith("_seconds")
    }
    pages = {path.name: untimed(path.read_text()) for path in sorted((run / "rollouts").glob("*.jsonl"))}
    [predictions] = folder.glob("**/predictions.jsonl")
    return {
        "weights": digest(checkpoint["state_dict"]),
        "optimizer": digest(checkpoint["optimizer_states"]),
        "curves": curves,
        "rollouts": pages,
        "page": [path.name for path in sorted((run / "rollouts").rglob("*"))],
        "predictions": untimed(predictions.read_text()),
    }


def untimed(text: str) -> list[Any]:
    """Read JSON lines without times."""
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key and key != "time"} for row in rows]


def digest(value: Any) -> Any:
    """Convert a tree of tensors to one that compares by value."""
    if isinstance(value, dict):
        return {key: digest(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [digest(part) for part in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def killer(folder: Path, ranks: int, duration: float, changes: int, rng: random.Random) -> Iterator[Kill]:
    """Draw up to `MOST_KILLS` kills of a run: each at a moment or at a change of a file."""
    for _ in range(rng.randint(1, MOST_KILLS)):
        aimed = rng.random() < 0.5
        moment, change = rng.uniform(0, duration), rng.randint(1, changes)

        def kill(arguments: list[str], aimed: bool = aimed, moment: float = moment, change: int = change) -> list[int]:
            processes = start(arguments, folder, ranks, change if aimed else 0)
            victim = processes[-1 if not aimed else 0]
            victim.join(None if aimed else moment)
            if victim.exitcode is None:
                victim.kill()
            return finish(processes)

        yield kill


def report() -> None:
    """Run the loop, and print a line per run and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=100, help="runs to kill")
    parser.add_argument("--ranks", type=int, default=1, help="processes of a run, under DDP")
    parser.add_argument("--rollouts", type=int, default=6, help="length of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--folder", type=Path, default=Path("runs/kill_loop"), help="emptied first")
    options = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for name in PRELOADED:
        importlib.import_module(name)
    root = options.folder.resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    straight = root / "straight"
    begun = time.monotonic()
    complete(straight, options.rollouts, options.ranks, iter(()))
    duration = time.monotonic() - begun
    changes = int((straight / "log0.changes").read_text())
    test(straight, options.rollouts)
    expected = outcome(straight)
    print(f"the straight run took {duration:.0f} s and changed files {changes} times", flush=True)
    counts: Counter[str] = Counter()
    for number in range(options.runs):
        folder = root / f"run{number:03d}"
        rng = random.Random(options.seed * 10**6 + number)
        try:
            kills = killer(folder, options.ranks, duration, changes, rng)
            killed = complete(folder, options.rollouts, options.ranks, kills)
            test(folder, options.rollouts)
        except SystemExit as error:
            counts["not resumed"] += 1
            print(f"{number}: {error}", flush=True)
            continue
        found = outcome(folder)
        differ = [name for name in expected if found[name] != expected[name]]
        counts["kills"] += killed
        counts["equal" if not differ else "different"] += 1
        print(f"{number}: {killed} kills, {'equal' if not differ else 'differs in ' + ', '.join(differ)}", flush=True)
        if not differ:
            shutil.rmtree(folder)
    print(
        f"{options.ranks} rank(s): {options.runs} runs, {counts['kills']} kills; {counts['equal']} ended equal, "
        f"{counts['different']} differ, {counts['not resumed']} could not be resumed"
    )
    if counts["equal"] != options.runs:
        raise SystemExit(1)


if __name__ == "__main__":
    report()
