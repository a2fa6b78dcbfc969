"""Compare the goals for one GPU with the results of the other benchmarks: python benchmarks/device_table.py FOLDER."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = Callable[[Any], float | None]
"""Return a figure from a result; None if its case was skipped."""


def parts_ratio(result: Any) -> float:
    """Return the ratio of TRL's time in log-probabilities, forward and backward to ours."""
    spent = {
        side: sum(phases.get(name, 0.0) for name in ("logprobs", "forward", "backward"))
        for side, phases in result["phases"].items()
    }
    return spent["peer"] / spent["ours"]


def peak_ratio(result: Any) -> float:
    """Return the ratio of our peak to TRL's."""
    return float(result["peak_gib"]["ours"] / result["peak_gib"]["peer"])


def head_peak(result: Any) -> float | None:
    """Return the peak of the one-pass head, GiB."""
    return next((row.get("peak_gib") for row in result["results"] if row["head"] == "one-pass"), None)


# name, unit, file, minimum (or maximum, if it is the larger) and target per shape, how to read the figure
GOALS: list[tuple[str, str, str, dict[str, tuple[float, float]], Found]] = [
    ("decode, share of bandwidth floor, B=64", "%", "decode", {"2b": (50, 70), "8b": (65, 80)},
     lambda r: 100 * r["rows"][0]["share_of_bandwidth_floor"]),
    ("decode vs HF `generate`, fixed T", "x", "decode", {"2b": (4, 7), "8b": (2, 3)},
     lambda r: r["rows"][0]["ratio"]["huggingface"]),
    ("decode vs HF, heavy-tailed (mean T/4)", "x", "decode", {"2b": (8, 12), "8b": (4, 6)},
     lambda r: r["rows"][1]["ratio"]["huggingface"]),
    ("decode vs HF static + compile", "x", "decode", {"2b": (1.3, 2), "8b": (1.3, 2)},
     lambda r: r["rows"][0]["ratio"]["static"]),
    ("training, model FLOPs of product rate", "%", "train", {"2b": (35, 47), "8b": (35, 47)},
     lambda r: 100 * next(iter(r["cases"].values()))["packed"]["share_of_product_rate"]),
    ("training vs TRL, T 256", "x", "step", {"2b": (3, 4), "8b": (3, 4)}, parts_ratio),
    ("training vs TRL, T 1024", "x", "step_long", {"2b": (1.8, 2.2), "8b": (1.8, 2.2)}, parts_ratio),
    ("whole step vs TRL, T 256", "x", "step", {"2b": (4, 6), "8b": (2.5, 4)}, lambda r: r["ratio"]),
    ("step peak memory vs TRL, T 1024", "x", "step_long", {"2b": (0.6, 0.45), "8b": (0.6, 0.45)}, peak_ratio),
    ("longest T that fits, vs TRL", "x", "longest", {"2b": (1.5, 2), "8b": (1.5, 2)}, lambda r: r["ratio"]),
    ("host gaps (device idle) in a step", "%", "gaps", {"2b": (10, 5), "8b": (10, 5)}, lambda r: 100 * r["idle"]),
    ("head, peak, weight frozen", " GiB", "head_frozen", {"": (1, 0.5)}, head_peak),
    ("head, peak, its weight's gradient included", " GiB", "head", {"": (1, 0.5)}, head_peak),
]  # fmt: skip


def table(folder: Path, shapes: list[str]) -> str:
    """Tabulate results beside their goals.

    Args:
        folder: folder of the JSON files.
        shapes: shapes of the measured policies; ``tiny`` has no goals.

    Returns:
        Markdown, with ``-`` for missing results.
    """
    lines = ["| goal | shape | must | aim | found | |", "|---|---|---|---|---|---|"]
    for what, unit, name, goals, find in GOALS:
        for shape in shapes if "" not in goals else [""]:
            path = folder / (f"{name}_{shape}.json" if shape else f"{name}.json")
            found = find(json.loads(path.read_text())) if path.is_file() else None
            must, aim = (None, None) if "tiny" in shapes else goals[shape]
            cells = ["-" if value is None else f"{value:.3g}{unit}" for value in (must, aim, found)]
            verdict = ""
            if found is not None and must is not None and aim is not None:
                sign = 1 if aim > must else -1
                verdict = "aim" if sign * (found - aim) >= 0 else "must" if sign * (found - must) >= 0 else "below"
            lines.append(f"| {what} | {shape} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", default=["2b", "8b"])
    arguments = parser.parse_args()
    if "tiny" in arguments.shapes:
        print("tiny sizes: the figures only show that the scripts run\n")
    print(table(arguments.folder, arguments.shapes))


if __name__ == "__main__":
    main()
