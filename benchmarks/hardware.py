"""Measure one run of the trainer on this machine's device: time, peak memory, agreement of engine and trainer.

python benchmarks/hardware.py --row gpu --shape 2b --policy FOLDER --json gpu.json
benchmarks/device_hardware.sh runs all rows and prints their table.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from common import machine, write_json

ROOT = Path(__file__).resolve().parents[1]
FIGURES = "HARDWARE_FIGURES"
STRATEGIES = {"default": "gpu", "gpu": "gpu", "zero2": "deepspeed_zero2", "zero3": "deepspeed_zero3", "cpu": "cpu"}
MEAN_GAP, MAX_GAP = 2e-3, 0.1
"""Largest error allowed from 16-bit arithmetic, nats."""
SIZES = [
    "--schedule.rollouts=2", "--schedule.validate_every=2", "--model.rollout.prompts=4", "--model.rollout.group_size=8",
    "--model.update.microbatches=2", "--data.init_args.max_prompt_tokens=256",
    "--data.init_args.max_completion_tokens=256", "--trainer.num_sanity_val_steps=0", "--trainer.limit_val_batches=0",
    "--trainer.enable_checkpointing=false", "--trainer.logger=false",
]  # fmt: skip


class Figures(pl.Callback):
    """Write peak memory, agreement of engine and trainer and validation accuracy when training ends."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figures to the file that the environment names."""
        from lit_g2rpo.callbacks.preflight.checks import logprob_gaps
        from lit_g2rpo.training.run import run_of

        run = run_of(pl_module)
        assert run.experience is not None
        peak = (
            torch.cuda.max_memory_allocated() if run.device.type == "cuda" else
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )  # fmt: skip
        gaps = logprob_gaps(run, run.experience.prompts[:4], run.max_tokens)
        figures = {
            "peak_gib": peak / 2**30,
            "mean_gap": float(gaps.mean()),
            "max_gap": float(gaps.max()),
            "tokens": len(gaps),
            "steps": trainer.global_step,
            "accuracy": [values["val/accuracy"] for values in run.validation_history if "val/accuracy" in values],
        }
        if trainer.is_global_zero:
            Path(os.environ[FIGURES]).write_text(json.dumps(figures))


def words(row: str, policy: Path | None, rollouts: int | None, scratch: Path) -> list[str]:
    """Build the command line of a row.

    Args:
        row: one of ``STRATEGIES``; ``default`` is the default run.
        policy: folder of a policy with random weights.
        rollouts: length of the default run; None for its usual length.
        scratch: folder for its files.

    Returns:
        The words after ``python -m lit_g2rpo fit``.
    """
    strategy = STRATEGIES[row] if torch.cuda.is_available() else "cpu"
    found = [f"--config={ROOT}/configs/g2rpo.yaml"]
    if row == "default":
        found += ["--trainer.callbacks+=hardware.Figures", f"--trainer.logger.init_args.save_dir={scratch}"]
        found += [] if rollouts is None else [f"--schedule.rollouts={rollouts}"]
    else:
        preflight = {"class_path": "lit_g2rpo.callbacks.Preflight", "init_args": {"checkpoint": False}}
        found += [f"--model.policy={ROOT}/configs/model/qwen3_vl_2b.yaml", f"--model.policy.path={policy}", *SIZES]
        found += [f"--trainer.callbacks={json.dumps([preflight, {'class_path': 'hardware.Figures'}])}"]
    return [*found, f"--trainer={ROOT}/configs/strategy/{strategy}.yaml", "--trainer.devices=1"]


def planned(command: list[str]) -> float | None:
    """Get the peak of a run from ``plan``.

    Args:
        command: words of its command line.

    Returns:
        The peak, GiB; None if ``plan`` reports none.
    """
    asked = [sys.executable, "-m", "lit_g2rpo", "plan", *command]
    said = subprocess.run(asked, capture_output=True, text=True).stdout
    found = re.search(r"^it .*fits?: ([\d.]+) GiB", said, re.MULTILINE)
    return None if found is None else float(found[1])


def table(folder: Path) -> str:
    """Tabulate the rows that ran.

    Args:
        folder: folder of their JSON files.

    Returns:
        Markdown.
    """
    lines = [
        "| row | strategy | device | date | seconds | peak, GiB | planned, GiB | mean gap | max gap, nats | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in STRATEGIES:
        path = folder / f"{row}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        start = f"| {row} | {found['strategy']} | {found['device']} | {found['date']}"
        if "failed" in found:
            lines.append(f"{start} | {found['failed']} | | | | | |")
            continue
        accuracy = " to ".join(f"{value:.3f}" for value in found["accuracy"][:: max(len(found["accuracy"]) - 1, 1)])
        within = found["mean_gap"] <= MEAN_GAP and found["max_gap"] <= MAX_GAP
        planned = "-" if found["planned_gib"] is None else f"{found['planned_gib']:.1f}"
        lines.append(
            f"{start} | {found['seconds']:.0f} "
            f"| {found['peak_gib']:.2f} | {planned} | {found['mean_gap']:.1e} | {found['max_gap']:.1e}"
            f"{'' if within else ' (above the limit)'} | {accuracy or '-'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run one row, or print the table of finished rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", choices=STRATEGIES, help="which run")
    parser.add_argument("--policy", type=Path, help="folder of a policy with random weights, for all rows but default")
    parser.add_argument("--build", choices=["tiny", "2b"], help="write such a policy to --policy and stop")
    parser.add_argument("--rollouts", type=int, help="length of the default run; its own if not given")
    parser.add_argument("--scratch", type=Path, default=Path("runs"), help="folder for the files of the run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--table", type=Path, help="print the table of the JSON files in this folder and stop")
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    if args.build:
        from train import build

        model, processor = build(args.build, "cuda" if torch.cuda.is_available() else "cpu")
        model.save_pretrained(args.policy)
        processor.save_pretrained(args.policy)
        return
    from lit_g2rpo.__main__ import main as trainer

    where = machine()
    command = words(args.row, args.policy, args.rollouts, args.scratch)
    strategy = Path(next(word for word in command if word.startswith("--trainer=")).split("=")[1]).stem
    result: dict[str, Any] = {
        "row": args.row,
        "strategy": strategy,
        "device": where.get("gpu", where["cpu"]),
        "date": date.today().isoformat(),
        "planned_gib": planned(command),
    }
    args.scratch.mkdir(parents=True, exist_ok=True)
    figures = args.scratch / f"{args.row}_figures.json"
    os.environ[FIGURES] = str(figures)
    start = time.perf_counter()
    code = trainer(["fit", *command])
    result["seconds"] = time.perf_counter() - start
    result |= json.loads(figures.read_text()) if code == 0 else {"failed": f"exit code {code}, see its log"}
    write_json(args.json, result)
    sys.exit(code)


if __name__ == "__main__":
    main()
