"""The grouped dashboard of a run: layout of TensorBoard's custom scalars tab."""

import re
from typing import Any

QUANTITIES = {
    "accuracy": ("val/accuracy", "rollout/accuracy"),
    "reward": ("rollout/reward",),
    "length": ("rollout/length", "rollout/truncated"),
    "entropy": ("rollout/entropy", "train/entropy", "entropy_bounds"),
}


def dashboard(tasks: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Lay out the custom scalars tab.

    Returns:
        Charts by category: a category per quantity with a line per task, and a category per task.
    """

    def tag(name: str) -> str:
        # the tab reads tags as patterns that need not match to the end
        return f"^{re.escape(name)}$"

    layout: dict[str, dict[str, list[Any]]] = {
        quantity: {name: ["Multiline", [tag(name), *(tag(f"{name}/{task}") for task in tasks)]] for name in names}
        for quantity, names in QUANTITIES.items()
    }
    for task in tasks:
        charts: dict[str, list[Any]] = {
            quantity: ["Multiline", [tag(f"{name}/{task}") for name in names]] for quantity, names in QUANTITIES.items()
        }
        charts["length band"] = ["Multiline", [tag(f"length_band/{side}/{task}") for side in ("low", "high")]]
        layout[f"task {task}"] = charts
    return layout
