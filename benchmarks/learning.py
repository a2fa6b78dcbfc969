"""Print what runs learned: validation accuracy per task, before and after, as a Markdown table.

python benchmarks/learning.py runs/g2rpo/version_0 runs/g2rpo/version_1 runs/g2rpo/version_2
"""

import argparse
import json
from pathlib import Path

import torch


def history(run: Path) -> list[dict[str, float]]:
    """Read every validation of a run from its last checkpoint.

    Args:
        run: folder of the run.

    Returns:
        Metrics of each validation, the first before training.
    """
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    validations: list[dict[str, float]] = checkpoint["g2rpo"]["validation_history"]
    return validations


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    histories = {str(run): history(run) for run in arguments.runs}
    prefix = "val/accuracy/"
    tasks = [name.removeprefix(prefix) for name in next(iter(histories.values()))[0] if name.startswith(prefix)]
    print("| validation accuracy | start |" + "".join(f" {Path(run).name} |" for run in histories) + " mean change |")
    print("|---|" + "---|" * (len(histories) + 2))
    for task in [*tasks, ""]:
        key = f"val/accuracy/{task}" if task else "val/accuracy"
        start = [entries[0][key] for entries in histories.values()]
        end = [entries[-1][key] for entries in histories.values()]
        change = sum(b - a for a, b in zip(start, end, strict=True)) / len(start)
        cells = "".join(f" {value:.3f} |" for value in end)
        print(f"| {task or '**mean**'} | {start[0]:.3f} |{cells} {change:+.3f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(histories, indent=1) + "\n")


if __name__ == "__main__":
    main()
