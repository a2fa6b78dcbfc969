"""The page of a comparison: one file with all it needs, to be opened from disk."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

import lit_g2rpo
from lit_g2rpo.comparison.compare import Comparison
from lit_g2rpo.comparison.metrics import MetricComparison, telling
from lit_g2rpo.comparison.report import rounded
from lit_g2rpo.comparison.runs import Run
from lit_g2rpo.comparison.sheets import (
    difference_text,
    estimate_text,
    groups_sheet,
    keys_sheet,
    runs_sheet,
    tasks_of,
    tasks_sheet,
)
from lit_g2rpo.comparison.words import p_value

PAGE = Path(__file__).parent / "page"
LOOK = Path(lit_g2rpo.__file__).parent / "callbacks/rollouts/page/page.css"
"""The style of the rollout page, which this one shares."""
DIGITS = 4
MOST_COLUMNS = 12
"""Groups that the table of keys has columns for."""
MOST_POINTS = 400
"""Points of a curve above which only every k-th is drawn."""


def page(found: Comparison, folder: Path) -> str:
    """Write the page.

    Args:
        folder: where it will lie, which links to the pages of the runs start from.
    """
    # escaped to ASCII, JSON is JavaScript, and without < it ends no script
    content = json.dumps(data(found, folder), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    library = (PAGE / "chart.umd.min.js").read_text(encoding="utf-8").rpartition("//# sourceMappingURL")[0]
    text = (PAGE / "compare.html").read_text(encoding="utf-8")
    for mark, part in (
        ("/* style */", LOOK.read_text(encoding="utf-8") + (PAGE / "compare.css").read_text(encoding="utf-8")),
        ("/* library */", library),
        ("/* data */", f"const DATA = {content};"),
        ("/* script */", (PAGE / "compare.js").read_text(encoding="utf-8")),
    ):
        before, _, after = text.partition(mark)
        text = before + part + after
    return text


def data(found: Comparison, folder: Path) -> dict[str, Any]:
    """Form what the page shows."""
    tasks = tasks_of(found)
    sheets = [groups_sheet(found)]
    if tasks:
        sheets.append(tasks_sheet(found, tasks))
    if len(found.groups) > 1:
        sheets.append(keys_sheet(found, MOST_COLUMNS))
    return {
        "metric": found.metric,
        "baseline": found.baseline,
        "notes": found.notes,
        "groups": [{"name": group.name, "seeds": len(group.runs)} for group in found.groups],
        "sheets": [asdict(sheet) for sheet in sheets],
        "runs": asdict(runs_sheet(found)),
        "links": [link(run, folder) for group in found.groups for run in group.runs.values()],
        "first": [found.metric, *(f"{found.metric}/{task}" for task in tasks)],
        "charts": {name: chart(name, metric) for name, metric in found.metrics.items()},
    }


def link(run: Run, folder: Path) -> str:
    """Find the rollout page of a run, as an address relative to a folder; empty if there is none."""
    target = run.folder / "rollouts" / "index.html"
    if not target.exists():
        return ""
    try:
        return quote(Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix())
    except ValueError:
        # on another drive
        return target.resolve().as_uri()


def chart(name: str, metric: MetricComparison) -> dict[str, Any]:
    """Form the curves of a metric, thinned out if they are long, and the figures below them."""
    every = -(-len(metric.rollouts) // MOST_POINTS)
    kept = np.arange(len(metric.rollouts) - 1, -1, -every)[::-1]
    curves = []
    for band in metric.bands:
        there = kept[band.n[kept] > 0]
        curves.append(
            {
                # None for all that the metric has, which would be most of the page
                "x": None if len(there) == len(kept) else metric.rollouts[there].tolist(),
                "mean": rounded(band.mean[there], DIGITS),
                "half": rounded(band.half[there], DIGITS) if (band.n > 1).any() else None,
                "n": band.n[there].tolist() if len(set(band.n[there].tolist())) > 1 else int(band.n.max()),
            }
        )
    return {
        "every": every,
        "x": metric.rollouts[kept].tolist(),
        "at": metric.common,
        "curves": curves,
        "mean": telling(name) == "mean",
        "figures": [
            [estimate_text(figure), difference_text(figure.difference), p_value(figure.difference)]
            for figure in metric.figures.get(telling(name), [])
        ],
    }
