"""Does the objective matter? Run arms over seeds on the embedded tasks, as `study_design` fixed before the first run.

python benchmarks/study.py run --jobs 2
python benchmarks/study.py status

`run` adds the runs missing from docs/results/study.json, phase by phase, until all are there or the requested time is
over. A run takes about 80 CPU-seconds; an interrupted one starts again.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from study_design import (
    ARMS,
    PHASES,
    RATES,
    ROLLOUTS,
    SCREENING_ROLLOUTS,
    SCREENING_SEEDS,
    SETTINGS,
    base_arm,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "study.json"
MEANS = ("topology/mean_abs/", "topology/tied_groups/", "topology/sign_flips/", "rollout/entropy/", "rollout/length/")
"""Curves by task that are stored as means over windows of `WINDOW` rollouts."""
GRADIENTS = "topology/gradient_share/"
WINDOW = 25
COMPLETIONS = 18 * 8
"""Completions of a rollout in every recipe of the study."""

Results = Mapping[str, Mapping[str, Any]]
"""What is known of each run, by its key."""


@dataclass(frozen=True)
class Run:
    """One run of the study."""

    setting: str
    arm: str
    rate: float
    seed: int
    rollouts: int

    @property
    def key(self) -> str:
        """Return its name in the results, which is also its folder's."""
        return f"{self.setting}/{self.arm}/{self.rate:g}/{self.seed}/{self.rollouts}"

    def words(self) -> list[str]:
        """Build the command line of the run after ``fit``."""
        arm, setting = ARMS[self.arm], SETTINGS[self.setting]
        words = ["--config", str(ROOT / "configs" / "grpo.yaml")]
        arguments = {**arm.arguments, "disturbance": setting.disturbance}
        objective = {"class_path": f"study_objectives.{arm.objective}", "init_args": arguments}
        words += ["--model.objective", json.dumps(objective)]
        words += ["--trainer", str(ROOT / "benchmarks" / "study_trainer.yaml")]
        words += ["--seed_everything", str(self.seed), "--schedule.rollouts", str(self.rollouts)]
        words += ["--model.optimizer.init_args.lr", f"{self.rate:g}"]
        if setting.quotas:
            words += ["--data.init_args.mixture.quotas", json.dumps(setting.quotas)]
        return words


def queue(done: Results) -> Iterator[Run]:
    """List the missing runs that can start, in the order of the phases."""
    for phase in PHASES.values():
        for seed in phase.seeds:
            for arm in phase.arms:
                if phase.rates_of is None:
                    rates, rollouts = RATES, SCREENING_ROLLOUTS
                else:
                    best = phase.rate or best_rate(done, phase.rates_of, base_arm(arm))
                    if best is None:
                        continue
                    rates, rollouts = (best,), ROLLOUTS
                for rate in rates:
                    run = Run(phase.setting, arm, rate, seed, rollouts)
                    if run.key not in done:
                        yield run


def screened(done: Results, setting: str, arm: str, rate: float) -> list[float]:
    """Find the final accuracies of an arm's screening at a rate."""
    keys = [Run(setting, arm, rate, seed, SCREENING_ROLLOUTS).key for seed in SCREENING_SEEDS]
    return [final(done[key]) for key in keys if key in done] if all(key in done for key in keys) else []


def best_rate(done: Results, setting: str, arm: str) -> float | None:
    """Choose an arm's rate by its screening; None until that is complete."""
    found = {rate: screened(done, setting, arm, rate) for rate in RATES}
    if not all(found.values()):
        return None
    middle = RATES[len(RATES) // 2]
    return max(RATES, key=lambda rate: (statistics.fmean(found[rate]), rate == middle))


def final(run: Mapping[str, Any]) -> float:
    """Return the mean accuracy of a run's last validation."""
    return float(run["validations"][-1]["accuracy"])


def record(folder: Path, run: Run, cpu_seconds: float) -> dict[str, Any]:
    """Extract the figures that the study keeps from a run's curves, rounded to five digits.

    Args:
        folder: folder with ``curves.jsonl``.
        cpu_seconds: cost of the run.
    """
    from lit_g2rpo.training.curve_file import CURVES, read_points

    points = read_points(folder / CURVES)
    validations = []
    for point in points:
        if "val/accuracy" in point:
            kept = {name: round(value, 5) for name, value in point.items() if name.startswith("val/")}
            accuracy = {name.removeprefix("val/"): value for name, value in kept.items() if "val/accuracy" in name}
            validations.append({"rollout": point["rollout"], **accuracy, "length": kept["val/length"]})
    if not validations or validations[-1]["rollout"] != run.rollouts:
        raise ValueError(f"{folder} ends without its last validation")
    windows: list[dict[str, float]] = []
    for start in range(0, run.rollouts, WINDOW):
        values: dict[str, list[float]] = {}
        for point in points:
            if start < point["rollout"] <= start + WINDOW:
                for name, value in point.items():
                    if name.startswith((*MEANS, GRADIENTS)) and "/type/" not in name:
                        values.setdefault(name, []).append(value)
        windows.append({name: round(statistics.fmean(found), 5) for name, found in values.items()})
    tokens = sum(point.get("rollout/length", 0.0) for point in points) * COMPLETIONS
    return {
        **asdict(run),
        "commit": commit(),
        "cpu_seconds": round(cpu_seconds, 1),
        "tokens": round(tokens),
        "validations": validations,
        "windows": windows,
    }


def commit() -> str:
    """Return the commit of the running code."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def start(run: Run, folder: Path) -> int:
    """Run in a fork, which already has every import.

    Returns:
        Its process id.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from lit_g2rpo.__main__ import main

        status = main(["fit", *run.words()])
    finally:
        sys.stdout.flush()
        os._exit(status)


def study(results: Path, work: Path, jobs: int, minutes: float) -> int:
    """Run all missing runs.

    Args:
        results: file to which results are added.
        work: folder of the runs.
        jobs: runs at a time.
        minutes: time after which no run is started.

    Returns:
        Number of failed runs.
    """
    # forked runs need not import them again
    for name in ("lit_g2rpo.cli.trainer", "lit_g2rpo.strategies"):
        importlib.import_module(name)
    from lit_g2rpo.files import write_text

    sys.path.insert(0, str(ROOT / "benchmarks"))
    end = time.monotonic() + 60 * minutes
    done: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    running: dict[int, tuple[Run, Path]] = {}
    failed: set[str] = set()
    while True:
        waiting = (run for run in queue(done) if run.key not in failed)
        for run in waiting:
            if len(running) >= jobs or time.monotonic() > end:
                break
            if all(run != other for other, _ in running.values()):
                folder = work / run.key
                running[start(run, folder)] = run, folder
        if not running:
            return len(failed)
        process, status, usage = os.wait4(-1, 0)
        run, folder = running.pop(process)
        try:
            if status:
                raise ValueError(f"ended with {os.waitstatus_to_exitcode(status)}; see {folder / 'output.txt'}")
            curves = next(folder.glob("**/curves.jsonl"))
            done[run.key] = record(curves.parent, run, usage.ru_utime + usage.ru_stime)
            write_text(results, json.dumps(done, indent=0) + "\n")
            print(f"{time.strftime('%H:%M:%S')} {run.key}: {final(done[run.key]):.4f}", flush=True)
        except (ValueError, StopIteration) as error:
            failed.add(run.key)
            print(f"{run.key} failed: {error}", flush=True)


def status(results: Path) -> None:
    """Print how much of each phase is done, and the chosen rates."""
    done: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    for name, phase in PHASES.items():
        runs = [run for run in done.values() if run["setting"] == phase.setting and run["arm"] in phase.arms]
        screening = phase.rates_of is None
        if phase.rate:
            runs = [run for run in runs if run["rate"] == phase.rate]
        runs = [run for run in runs if run["seed"] in phase.seeds and (run["rollouts"] < ROLLOUTS) == screening]
        total = len(phase.arms) * len(phase.seeds) * (len(RATES) if screening else 1)
        print(f"{name}: {len(runs)} of {total} runs")
        if screening:
            print("  rates:", {arm: best_rate(done, phase.setting, arm) for arm in phase.arms})


def main() -> None:
    """Run the study, or print its progress."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "status"])
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after so long")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.verb == "status":
        status(arguments.results)
    elif study(arguments.results, arguments.work.absolute(), arguments.jobs, arguments.minutes):
        sys.exit(1)


if __name__ == "__main__":
    main()
