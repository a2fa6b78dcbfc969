"""Run folders with synthetic curves, in the format of real ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_g2rpo.comparison.runs import Run, read_run

TASKS = ("chart_figure_qa", "math_reasoning", "ocr")


def recipe(seed: int, **changed: Any) -> dict[str, Any]:
    """A small recipe; ``changed`` holds dotted or top-level keys, or keys of the objective."""
    found: dict[str, Any] = {
        "name": "made",
        "seed_everything": seed,
        "schedule": {"rollouts": 150, "validate_every": 25},
        "model": {
            "objective": {"class_path": "lit_g2rpo.objectives.G2RPO", "init_args": {"scope": "task", "clip": 0.2}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 6.0e-05}},
        },
        "data": {"class_path": "lit_g2rpo.mini.MiniPrompts", "init_args": {"seed": "${...seed_everything}"}},
        "trainer": {
            "logger": {"init_args": {"save_dir": "runs", "name": "${....name}"}},
            "callbacks": [
                {
                    "class_path": "lit_g2rpo.callbacks.BandPlots",
                    "init_args": {"every_rollouts": "${.....schedule.validate_every}"},
                },
            ],
        },
    }
    for key, value in changed.items():
        *path, last = key.split(".") if "." in key or key in found else ("model", "objective", "init_args", key)
        place = found
        for part in path:
            place = place[part]
        place[last] = value
    return found


def points(seed: int, rollouts: int = 150, gain: float = 0.2, others: int = 0, every: int = 25) -> list[dict[str, Any]]:
    """Curves of a run that learns, different for each seed.

    Args:
        gain: increase in accuracy over 150 rollouts.
        others: other training metrics.
        every: rollouts between validations.
    """
    draw = np.random.default_rng([seed, 7])
    level = 0.5 + 0.01 * draw.normal()
    found = []
    for rollout in range(rollouts + 1):
        accuracy = level + gain * rollout / 150
        point: dict[str, Any] = {"rollout": rollout, "time": 1e9 + 2 * rollout}
        if rollout:
            point |= {
                "rollout/reward": accuracy + 0.05 * draw.normal(),
                "perf/rollout_seconds": 0.5,
                "perf/score_seconds": 0.1,
                "perf/logprobs_seconds": 0.0,
                "perf/update_seconds": 0.4,
                "perf/tokens_per_second": 2000.0,
            }
            noise = draw.normal(size=others)
            point |= {f"train/other_{k}/{TASKS[k % 3]}": float(value) for k, value in enumerate(noise)}
        if rollout % every == 0:
            point["val/accuracy"] = accuracy
            point |= {f"val/accuracy/{task}": accuracy + 0.1 * k for k, task in enumerate(TASKS, -1)}
        found.append(point)
    return found


def make_run(folder: Path, recipe: dict[str, Any], curve: Sequence[dict[str, Any]], page: bool = False) -> Path:
    """Write the folder of a run.

    Args:
        curve: its points.
        page: also create a placeholder for its rollout page.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "curves.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))
    if page:
        (folder / "rollouts").mkdir()
        (folder / "rollouts" / "index.html").write_text("<title>rollouts</title>")
    return folder


def arm(root: Path, place: str, seeds: range, gain: float = 0.2, rollouts: int = 150, **changed: object) -> list[Path]:
    """A run for each seed, whose curves differ by seed and gain alone."""
    return [
        make_run(root / place / f"version_{seed}", recipe(seed, **changed), points(seed, rollouts, gain))
        for seed in seeds
    ]


def read(folders: list[Path]) -> list[Run]:
    """Read runs, of which none may have a problem."""
    runs = [read_run(folder) for folder in folders]
    assert [problem for _, problem in runs if problem] == []
    return [run for run, _ in runs if run]
