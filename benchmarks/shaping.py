"""Does shaping keep its promise? Train the embedded policy with and without it, and compare and plot the runs.

python benchmarks/shaping.py entropy --json docs/results/shaping_entropy.json --figure docs/images/shaping_entropy.png
python benchmarks/shaping.py length --json docs/results/shaping_length.json --figure docs/images/shaping_length.png

Bands are those that calibrate proposes for the starting policy. Finished runs are kept in --work, so an interrupted
study continues with its current run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from wordy import LONGEST, START, build

from lit_g2rpo.callbacks.plots.figures import panels
from lit_g2rpo.objectives.calibration import PAPER_STYLES

ROOT = Path(__file__).parents[1]
WINDOW = 10
"""Rollouts over which a curve is averaged: with three prompts per task, a single rollout is too noisy."""
COLORS = {"off": "tab:orange", "on": "tab:blue"}
"""Color of each setting."""


@dataclass(frozen=True)
class Study:
    """Two settings that differ only in shaping: its weight is 0 in ``off``.

    Args:
        heading: heading of the figure.
        rollouts: length of a run.
        column: column of a point of `BandPlots` to judge; its band is in the columns ``low`` and ``high``.
        low: column of the lower bound.
        high: column of the upper bound.
        unit: unit of the column.
        options: options of ``fit`` for both settings.
        weight: option of ``fit`` and its value in the setting ``on``.
        callbacks: lines of the trainer's fragment to replace for the setting ``on``.
    """

    heading: str
    rollouts: int
    column: int
    low: int
    high: int
    unit: str
    options: tuple[str, str]
    weight: tuple[str, str]
    callbacks: dict[str, str]


BOUNDS = "  - class_path: lit_g2rpo.callbacks.EntropyBounds\n"
STUDIES = {
    "entropy": Study(
        heading="Token entropy at a learning rate of 5e-4",
        rollouts=100,
        column=6,
        low=7,
        high=8,
        unit="nats",
        options=("--model.optimizer.init_args.lr", "5e-4"),
        weight=("--model.objective.init_args.entropy_coefficient", "0.5"),
        callbacks={BOUNDS: BOUNDS + "    init_args: {patience: 2, action: lower_lr}\n"},
    ),
    "length": Study(
        heading="Mean completion length",
        rollouts=80,
        column=1,
        low=3,
        high=4,
        unit="tokens",
        options=("--data.init_args.max_completion_tokens", str(LONGEST)),
        weight=("--model.objective.init_args.length_weight", "0.1"),
        callbacks={"rollouts: ${.....schedule.rollouts}": "rollouts: 10"},
    ),
}

Curves = dict[str, list[list[float]]]


def project(*words: str) -> None:
    """Run a verb of the command line.

    Args:
        words: the verb and its arguments.

    Raises:
        CalledProcessError: if it fails.
    """
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-m", "lit_g2rpo", *words], check=True, env=environment)


def prepare(name: str, work: Path) -> list[str]:
    """Build the starting policy of a study and calibrate its bands, unless they exist.

    Args:
        name: the study.
        work: folder of the runs.

    Returns:
        Options of ``fit`` that all its runs share.
    """
    study = STUDIES[name]
    work.mkdir(parents=True, exist_ok=True)
    policy = START
    if name == "length":
        policy = str(work / "wordy")
        build(Path(policy))
    common = ["--config", str(ROOT / "configs" / "g2rpo.yaml"), "--model.policy.path", policy, *study.options]
    bands = work / f"{name}-bands.yaml"
    if not bands.exists():
        project("calibrate", *common, "--output", str(bands))
    return [*common, "--data", str(bands)]


def trainer_fragment(study: Study, path: Path) -> None:
    """Write the default trainer's config with other callback arguments.

    Args:
        study: has the arguments.
        path: file to write.
    """
    text = (ROOT / "configs" / "trainer" / "default.yaml").read_text()
    for old, new in study.callbacks.items():
        assert text.count(old) == 1, f"the default trainer has one {old!r}"
        text = text.replace(old, new)
    path.write_text(text)


def finished(folder: Path, rollouts: int) -> dict[str, Any] | None:
    """Read the last checkpoint of the newest finished run.

    Args:
        folder: folder of an experiment.
        rollouts: length of the run.

    Returns:
        The checkpoint; None if there is none.
    """
    for path in sorted(folder.glob("version_*/checkpoints/last.ckpt"), reverse=True):
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["g2rpo"]["rollout_index"] == rollouts:
            return checkpoint
    return None


def run(name: str, setting: str, seed: int, work: Path, common: list[str]) -> tuple[Curves, list[dict[str, float]]]:
    """Train unless the run was finished before.

    Args:
        name: the study.
        setting: ``off`` or ``on``.
        seed: seed of the run.
        work: folder of the runs.
        common: options of all runs.

    Returns:
        The points of `BandPlots` by task, and the validations.
    """
    study, experiment = STUDIES[name], f"{name}-{setting}-{seed}"
    checkpoint = finished(work / experiment, study.rollouts)
    if checkpoint is None:
        fragment = work / f"{name}-trainer.yaml"
        trainer_fragment(study, fragment)
        option, weight = study.weight
        options = {
            "--name": experiment, "--seed_everything": str(seed), "--trainer.logger.init_args.save_dir": str(work),
            **{f"--schedule.{key}": str(study.rollouts) for key in ("rollouts", "validate_every", "checkpoint_every")},
            option: weight if setting == "on" else "0",
        }  # fmt: skip
        # the fragment comes first, so that the options override it
        first = ["--trainer", str(fragment)] if setting == "on" else []
        project("fit", *common, *first, *(word for pair in options.items() for word in pair))
        checkpoint = finished(work / experiment, study.rollouts)
        assert checkpoint is not None, "the run went to its end"
    (callback,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("BandPlots"))
    return callback["history"], checkpoint["g2rpo"]["validation_history"]


def running_mean(values: list[float]) -> list[float]:
    """Average each value with the ``WINDOW - 1`` before it; skip the first ones, which have fewer."""
    return [statistics.fmean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1)]


def judge_entropy(curve: list[list[float]], study: Study) -> dict[str, float]:
    """Compute how much of a task's curve is outside its band.

    Args:
        curve: points of the task.
        study: the study.

    Returns:
        Fraction of rollouts outside, fraction of running means outside, and the last rollout whose running mean is
        outside, 0 for none.
    """

    def outside(values: list[float]) -> list[bool]:
        low, high = curve[0][study.low], curve[0][study.high]
        return [not low <= value <= high for value in values]

    values = [point[study.column] for point in curve]
    single, means = outside(values), outside(running_mean(values))
    last = max((rollout for rollout, out in enumerate(means, WINDOW) if out), default=0)
    return {"rollouts": statistics.fmean(single), "means": statistics.fmean(means), "last": last}


def judge_length(curve: list[list[float]], study: Study) -> dict[str, float]:
    """Return the first and the last mean length of a task.

    Args:
        curve: points of the task.
        study: the study.

    Returns:
        Mean of the first five rollouts and of the last ten, tokens.
    """
    values = [point[study.column] for point in curve]
    return {"start": statistics.fmean(values[:5]), "end": statistics.fmean(values[-WINDOW:])}


JUDGES = {"entropy": judge_entropy, "length": judge_length}


def figure(study: Study, runs: dict[str, list[Curves]]) -> Any:
    """Plot running means by task, with a thin line per run.

    Args:
        study: the study.
        runs: curves of each run, by setting.

    Returns:
        The figure.
    """
    tasks = list(PAPER_STYLES)
    titles = {f"{task} ({PAPER_STYLES[task]})": task for task in sorted(tasks, key=lambda task: PAPER_STYLES[task])}
    note = f"mean of {WINDOW} rollouts, a line per seed; orange: without shaping, blue: with it; green: the band"
    drawn, axes_of = panels(list(titles), study.heading, note)
    for title, axes in axes_of.items():
        task = titles[title]
        low, high = (runs["on"][0][task][-1][place] for place in (study.low, study.high))
        axes.axhspan(low, high, color="tab:green", alpha=0.2, linewidth=0)
        seen = [0.0]
        for setting, curves in runs.items():
            for curve in curves:
                means = running_mean([point[study.column] for point in curve[task]])
                seen += means
                axes.plot([point[0] for point in curve[task]][WINDOW - 1 :], means, color=COLORS[setting], linewidth=1)
        axes.set_ylim(0, 1.1 * max(*seen, *([high] if high < 2 * max(seen) else [])))
        axes.set_xlabel("rollout", fontsize=8)
        axes.set_ylabel(study.unit, fontsize=8)
    return drawn


def main() -> None:
    """Run a study, print its table, and write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--work", type=Path, default=Path("runs/shaping"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    study, judge, work = STUDIES[args.study], JUDGES[args.study], args.work.resolve()
    common = prepare(args.study, work)
    done = {setting: [run(args.study, setting, seed, work, common) for seed in range(args.seeds)] for setting in COLORS}
    curves = {setting: [curve for curve, _ in runs] for setting, runs in done.items()}
    table = {
        setting: {task: [judge(curve[task], study) for curve in found] for task in PAPER_STYLES}
        for setting, found in curves.items()
    }
    accuracy = {
        setting: [[entry["val/accuracy"] for entry in validations] for _, validations in runs]
        for setting, runs in done.items()
    }
    cells = [(setting, name) for setting in table for name in table[setting]["ocr"][0]]
    print("| task |" + "".join(f" {setting}: {name} |" for setting, name in cells))
    print("|---|" + "---|" * len(cells))
    for task in PAPER_STYLES:
        values = [" ".join(f"{found[name]:.3g}" for found in table[setting][task]) for setting, name in cells]
        print("| " + " | ".join([task, *values]) + " |")
    print("validation accuracy, start and end:", json.dumps(accuracy))
    if args.json:
        args.json.write_text(json.dumps({"tasks": table, "accuracy": accuracy}, indent=1) + "\n")
    if args.figure:
        figure(study, curves).savefig(args.figure, dpi=100)


if __name__ == "__main__":
    main()
