"""The figures of an evaluation as a table."""

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 190
Figures = Mapping[str, Any]


def show(metrics: Figures) -> None:
    """Print figures from ``report.summarize`` per task, with the mean in the last row."""
    console = Console()
    if not console.is_terminal:
        # a file has no width to wrap at
        console = Console(width=WIDTH)
    console.print(table(metrics))


def table(metrics: Figures) -> Table:
    """Arrange figures from ``report.summarize`` as a table, without columns that no task has."""
    tasks = metrics["tasks"]
    columns = {name: cell for name, cell in _columns(tasks).items() if any(cell(task) for task in tasks.values())}
    out = Table(box=box.SIMPLE, show_footer=True)
    out.add_column("task", footer="mean")
    for name, cell in columns.items():
        out.add_column(name, justify="right", footer=cell(metrics))
    for name, figures in tasks.items():
        out.add_row(name, *(cell(figures) for cell in columns.values()))
        for detail, value in figures.get("details", {}).items():
            cells = (f"{value:.3f}" if column == "score" else "" for column in columns)
            out.add_row(f"  {detail}", *cells, style="dim")
    return out


def _columns(tasks: Mapping[str, Figures]) -> dict[str, Callable[[Figures], str]]:
    passes = sorted({key for figures in tasks.values() for key in figures if key.startswith("pass@")})
    return {
        "rows": _plain("n", "d"),
        "metric": _metric,
        "score": _plain("score", ".3f"),
        "95 %": lambda figures: _interval(figures.get("interval"), ".3f"),
        "strict": _plain("strict", ".3f"),
        "suite": lambda figures: _plain("suite", ".3f")(figures) or ("no judge" if figures.get("needs_judge") else ""),
        "only strict": _plain("only_strict", "d"),
        "only suite": _plain("only_suite", "d"),
        "judge failed": lambda figures: _plain("judge_failures", "d")(figures) if figures.get("judge_failures") else "",
        **{key: _plain(key, ".3f") for key in passes},
        "baseline": lambda figures: _plain("score", ".3f")(figures.get("baseline") or {}),
        "change": lambda figures: _plain("difference", "+.3f")(figures.get("baseline") or {}),
        "95 % of it": lambda figures: _interval((figures.get("baseline") or {}).get("interval"), "+.3f"),
        "format": _plain("format", ".3f"),
        "unparsed": _plain("unparsed", "d"),
        "truncated": _plain("truncated", ".3f"),
        "time-outs": _plain("timeouts", "d"),
        "length": _plain("length", ".1f"),
    }


def _plain(key: str, form: str) -> Callable[[Figures], str]:
    return lambda figures: "" if figures.get(key) is None else format(figures[key], form)


def _metric(figures: Figures) -> str:
    if "metric" not in figures:
        return ""
    return str(figures["metric"]) + (f" ({figures['rule']})" if figures["rule"] in ("stand-in", "suite") else "")


def _interval(bounds: list[float] | None, form: str) -> str:
    return "" if bounds is None else f"{bounds[0]:{form}}..{bounds[1]:{form}}"
