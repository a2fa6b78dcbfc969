"""The page of a comparison: one self-contained file that opens from disk."""

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
"""The style of the rollout page, which this page shares."""
DIGITS = 4
MOST_COLUMNS = 12
"""Maximum number of groups that get a column in the table of keys."""
MOST_POINTS = 400
"""Number of points of a curve above which only every k-th is drawn."""


def page(found: Comparison, folder: Path) -> str:
    """Render the page.

    Args:
        folder: folder of the page, which links to the runs' pages are relative to.
    """
    # JSON escaped to ASCII is valid JavaScript, and without < it cannot end the script
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
    """Collect the data of the page."""
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
    """Find the rollout page of a run, as a URL relative to a folder; empty if there is none."""
    target = run.folder / "rollouts" / "index.html"
    if not target.exists():
        return ""
    try:
        return quote(Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix())
    except ValueError:
        # on another drive
        return target.resolve().as_uri()


def chart(name: str, metric: MetricComparison) -> dict[str, Any]:
    """Collect the curves of a metric, thinned out if they are long, and the figures below them."""
    every = -(-len(metric.rollouts) // MOST_POINTS)
    kept = np.arange(len(metric.rollouts) - 1, -1, -every)[::-1]
    curves = []
    for band in metric.bands:
        there = kept[band.n[kept] > 0]
        curves.append(
            {
                # None stands for all of the metric's rollouts, which would make up most of the page
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
