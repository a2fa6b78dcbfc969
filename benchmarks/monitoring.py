"""Measure the cost of monitoring: the default run with and without its monitoring callbacks, a rollout of each in turn.

python benchmarks/monitoring.py --json monitoring.json

Both runs do the same work, as their final weights prove, so the difference in CPU-seconds of the process is the cost of
the callbacks: figures, histograms, the page, and what TensorBoard writes for them. Validation and checkpoints are not
part of a step and are left out.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from common import machine, quiet, write_json
from turns import Phases, Turn

from lit_g2rpo.callbacks import AdvantageTopology, Alarms, BandPlots, RolloutLog
from lit_g2rpo.cli.trainer import TrainerCLI

MONITORING = (AdvantageTopology, Alarms, BandPlots, RolloutLog)
LEFT_OUT = ("GracefulInterrupt", "PredictionWriter", "RolloutCheckpoint")
"""A thread cannot set signal handlers; the other callbacks belong to validation and checkpoints."""
HOOKS = ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_end")


class Pause(L.Callback):
    """Hand over to the other run after the last update of a rollout."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause = pause

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Wait for the next turn."""
        if batch[1] + 1 == pl_module.microbatches_per_rollout:
            self.pause()


class Side:
    """The default run, with or without monitoring.

    Args:
        folder: folder for its files.
        rollouts: length of the run.
        monitored: whether it has the monitoring callbacks.
    """

    def __init__(self, folder: Path, rollouts: int, monitored: bool) -> None:
        self.phases = Phases()
        cli = TrainerCLI(None, [
            "--config", str(Path(__file__).parents[1] / "configs" / "g2rpo.yaml"), "--trainer.accelerator", "cpu",
            "--schedule.rollouts", str(rollouts), "--trainer.logger.init_args.save_dir", str(folder),
            "--name", "on" if monitored else "off", "--trainer.limit_val_batches", "0",
            "--trainer.num_sanity_val_steps", "0",
        ])  # fmt: skip
        self.cli = cli
        kept = [callback for callback in cli.trainer.callbacks if type(callback).__name__ not in LEFT_OUT]
        watching = [callback for callback in kept if isinstance(callback, MONITORING)]
        assert len(watching) == len(MONITORING), "the default run has them all"
        cli.trainer.callbacks = kept if monitored else [callback for callback in kept if callback not in watching]
        for callback in watching:
            for hook in HOOKS:
                self.phases.wrap(callback, hook, type(callback).__name__)

    def run(self, pause: Callable[[], None]) -> None:
        """Train.

        Args:
            pause: called after every rollout's last update.
        """
        self.cli.trainer.callbacks.append(Pause(pause))
        self.cli.trainer.fit(self.cli.model, self.cli.datamodule)


def compare(rollouts: int, folder: Path) -> dict[str, Any]:
    """Let both runs train in turns.

    Args:
        rollouts: length of each run.
        folder: folder for their files.

    Returns:
        CPU-seconds of both, the relative cost of monitoring, its standard error, and the hooks' own share by callback.
    """
    sides = {name: Side(folder, rollouts, name == "on") for name in ("off", "on")}
    turns = {name: Turn(side.run) for name, side in sides.items()}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    # one more turn than rollouts: the last one ends the run, with its last figures
    for turn in range(rollouts + 1):
        # the order alternates, so that neither always finds the other's cache
        for name in sorted(sides, reverse=turn % 2 == 1):
            before = time.process_time()
            turns[name].step()
            spent[name].append(time.process_time() - before)
    off, on = (list(sides[name].cli.model.parameters()) for name in ("off", "on"))
    assert all(torch.equal(a, b) for a, b in zip(off, on, strict=True)), "monitoring changed the run"
    # the first turn sets up the trainer; it also imports matplotlib, which is part of the cost
    extra = [b - a for a, b in zip(spent["off"], spent["on"], strict=True)]
    total = sum(spent["off"])
    return {
        "rollouts": rollouts,
        "seconds": {name: sum(values) for name, values in spent.items()},
        "share": sum(extra) / total,
        "standard_error": len(extra) ** 0.5 * statistics.stdev(extra) / total,
        "hooks": {name: seconds / total for name, seconds in sorted(sides["on"].phases.seconds.items())},
    }


def main() -> None:
    """Read the options, measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=150)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(args.rollouts, Path(folder))
    write_json(args.json, {"machine": machine(), **result})
    off, on = (result["seconds"][name] for name in ("off", "on"))
    print(f"CPU-seconds of {args.rollouts} rollouts: {off:.1f} without monitoring, {on:.1f} with it")
    print(f"monitoring adds {result['share']:.1%} (standard error {result['standard_error']:.1%})")
    for name, share in result["hooks"].items():
        print(f"  hooks of {name}: {share:.1%}")


if __name__ == "__main__":
    main()
