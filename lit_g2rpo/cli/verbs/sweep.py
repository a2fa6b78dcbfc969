"""``sweep``: run every combination of values and seeds, and compare the runs at the end."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import torch
import yaml

from lit_g2rpo.callbacks.run_folder import locked
from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.sweep.grid import read_grid
from lit_g2rpo.cli.sweep.processes import Outcome, Processes
from lit_g2rpo.cli.sweep.progress import Progress, show_runs
from lit_g2rpo.cli.sweep.runs import RECIPES, SweepRun, check_output, check_recipes, compose
from lit_g2rpo.files import write_text
from lit_g2rpo.training.curve_file import CURVES

DEVICES = "CUDA_VISIBLE_DEVICES"


def run(verb: str, line: Line) -> None:
    """Train the runs of a sweep and compare them.

    Raises:
        UserError: before the first run starts, if any run could not start.
        SystemExit: with code 1 if a run failed or is not finished.
    """
    grid = read_grid(line.words)
    check_output(grid.output)
    # composing seeds this process, but its runs must only use their own seeds
    environment = dict(os.environ)
    runs = compose(grid)
    check_recipes(grid, runs)
    with locked(grid.output / RECIPES, verb) or open(os.devnull):
        done = {one.name: one.done() for one in runs}
        left = [one for one in runs if (done[one.name] or 0) < one.rollouts]
        show_runs(grid, runs, done)
        at_a_time = min(grid.parallel, len(left))
        print(f"{len(left)} of {len(runs)} runs to do, {at_a_time} at a time, in {grid.output}", flush=True)
        for one in runs:
            write_text(one.recipe_file, yaml.safe_dump(one.recipe, sort_keys=False, allow_unicode=True))
        with Progress(runs, len(runs) - len(left)) as progress:
            processes = Processes(grid.parallel, progress, slots(environment, runs[0]))
            outcome = processes.run(left)
        report(runs, outcome)
        unfinished = bool(outcome.failed or outcome.stopped or outcome.waiting)
        if not processes.signals and (begun := [one for one in runs if (one.folder / CURVES).exists()]):
            words = ["compare", *(str(one.folder) for one in begun), "--output", str(grid.output)]
            compared = subprocess.run([sys.executable, "-m", "lit_g2rpo", *words], env=environment)
            sys.exit(int(unfinished) or compared.returncode)
    if unfinished:
        sys.exit(1)


def slots(environment: Mapping[str, str], run: SweepRun) -> Callable[[int], Mapping[str, str]]:
    """Assign simultaneous single-device runs to different GPUs, if there are enough.

    Args:
        environment: environment of all runs.
        run: one of the runs.

    Returns:
        A function from a slot to its environment.
    """
    names = (
        environment[DEVICES].split(",")
        if environment.get(DEVICES)
        else list(map(str, range(torch.cuda.device_count())))
    )
    if len(names) < 2 or str(run.recipe["trainer"]["devices"]) != "1" or run.recipe["trainer"]["accelerator"] == "cpu":
        return lambda slot: environment
    return lambda slot: {**environment, DEVICES: names[slot % len(names)]}


def report(runs: list[SweepRun], outcome: Outcome) -> None:
    """Print the outcome of the runs."""
    unfinished = len(outcome.failed) + len(outcome.stopped) + len(outcome.waiting)
    print(f"{len(runs) - unfinished} of {len(runs)} runs are finished")
    if outcome.failed:
        print(f"{len(outcome.failed)} failed:")
    for one in runs:
        if one.name in outcome.failed:
            print(f"  {one.name}: {outcome.failed[one.name]}; see {one.log}")
    if outcome.stopped:
        print("stopped: " + ", ".join(f"{name} after {done} rollouts" for name, done in outcome.stopped.items()))
    if outcome.waiting:
        print(f"not started: {', '.join(one.name for one in outcome.waiting)}")
    if unfinished:
        print("Repeat the command to resume them.", flush=True)
