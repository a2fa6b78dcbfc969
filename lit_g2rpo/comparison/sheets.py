"""The tables of a comparison as text by row and column, for the console and the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_g2rpo.comparison.compare import Comparison, to_target
from lit_g2rpo.comparison.groups import short_keys, show_seed
from lit_g2rpo.comparison.metrics import Figure, MetricComparison, telling
from lit_g2rpo.comparison.runs import Seed
from lit_g2rpo.comparison.statistics import PairedDifference
from lit_g2rpo.comparison.words import amount, duration, interval, p_value, ranges


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a sheet.

    Args:
        cells: text of each cell.
        group: index of the group that it is about; None if there is none.
        faint: True for a row that belongs to the one above.
    """

    cells: list[str]
    group: int | None = None
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table.

    Args:
        title: title of the table.
        columns: names of the columns.
        words: number of columns, from the left, with words; the others have figures.
        rows: rows of the table.
    """

    title: str
    columns: list[str]
    words: int
    rows: list[Row] = field(default_factory=list)


def tasks_of(found: Comparison) -> list[str]:
    """List the tasks that have the tables' metric."""
    prefix = f"{found.metric}/"
    return [name.removeprefix(prefix) for name in found.metrics if name.startswith(prefix)]


def keys_sheet(found: Comparison, most: int) -> Sheet:
    """Lay out the keys in which groups differ.

    Args:
        most: up to this many groups get a column each; with more, each value is followed by its groups' numbers.
    """
    keys = found.groups[0].values
    short = short_keys(list(keys))
    if len(found.groups) <= most:
        rows = [Row([short[key], *(group.values[key] for group in found.groups)]) for key in keys]
        return Sheet(
            "What differs", ["key", *(str(group.number) for group in found.groups)], len(found.groups) + 1, rows
        )
    rows = []
    for key in keys:
        having: dict[str, list[int]] = {}
        for group in found.groups:
            having.setdefault(group.values[key], []).append(group.number)
        rows.append(Row([short[key], "; ".join(f"{value} ({ranges(numbers)})" for value, numbers in having.items())]))
    return Sheet("What differs", ["key", "value (groups)"], 2, rows)


def groups_sheet(found: Comparison) -> Sheet:
    """Lay out each group's figures, differences from the baseline, and costs to reach the target."""
    metric = found.metrics[found.metric]
    goal = "" if found.target is None else f" to {found.target:g}"
    figures = [name for name in ("last", "best", "mean") if name in metric.figures]
    shown = telling(found.metric)
    columns = ["", "group", "seeds", *figures, f"{shown} minus group {found.baseline + 1}", "p"]
    place_of = "" if metric.common is None else f" at rollout {metric.common}"
    sheet = Sheet(
        f"{found.metric}{place_of}, mean and 95 % interval over seeds",
        [*columns, f"rollouts{goal}", f"tokens{goal}", f"seconds{goal}"],
        2,
    )
    for place, group in enumerate(found.groups):
        reached, spent = to_target(found.costs[place])
        rollouts = interval(spent["rollouts"], ".0f") if spent else f"{reached} of {len(group.runs)} runs"
        figure = figure_of(metric, shown, place)
        difference = difference_of(figure)
        cells = [
            str(group.number),
            group.name,
            _seeds(figure, len(group.runs)),
            *(estimate_text(figure_of(metric, name, place)) for name in figures),
            difference_text(difference),
            p_value(difference),
            rollouts if found.target is not None else "",
            amount(spent["tokens"].mean) if "tokens" in spent else "",
            duration(spent["seconds"].mean) if "seconds" in spent else "",
        ]
        sheet.rows.append(Row(cells, place))
    return sheet


def tasks_sheet(found: Comparison, tasks: Sequence[str]) -> Sheet:
    """Lay out the most informative figure of each task, with the difference from the baseline and its p-value below."""
    shown = telling(found.metric)
    title = f"{found.metric} of each task ({shown}), below it the difference to group {found.baseline + 1}"
    sheet = Sheet(title, ["", "group", *tasks], 2)
    metrics = [found.metrics[f"{found.metric}/{task}"] for task in tasks]
    for place, group in enumerate(found.groups):
        figures = [figure_of(metric, shown, place) for metric in metrics]
        sheet.rows.append(Row([str(group.number), group.name, *map(estimate_text, figures)], place))
        differences = list(map(difference_of, figures))
        if any(differences):
            texts = [", p ".join(filter(None, (difference_text(one), p_value(one)))) for one in differences]
            sheet.rows.append(Row(["", "", *texts], place, faint=True))
    return sheet


def runs_sheet(found: Comparison) -> Sheet:
    """Lay out the cost of each run, in the order of the groups."""
    columns = ["run", "group", "seed", "rollouts", "tokens", "training", "wall clock", "ranks", found.metric]
    sheet = Sheet("What each run has cost", columns, 1)
    metric = found.metrics[found.metric]
    for place, (group, costs) in enumerate(zip(found.groups, found.costs, strict=True)):
        figure = figure_of(metric, telling(found.metric), place)
        for (seed, run), cost in zip(group.runs.items(), costs, strict=True):
            value = figure.by_seed.get(seed) if figure else None
            planned = "" if run.planned in (None, run.rollouts) else f" of {run.planned}"
            cells = [
                str(run.folder),
                str(group.number),
                show_seed(seed),
                f"{run.rollouts}{planned}",
                amount(cost.total.tokens),
                duration(cost.total.seconds),
                duration(cost.wall_seconds),
                str(run.versions.get("ranks", "")),
                "" if value is None else f"{value:.3f}",
            ]
            sheet.rows.append(Row(cells, place))
    return sheet


def figure_of(metric: MetricComparison, name: str, place: int) -> Figure | None:
    """Look up a figure of a group; None if it has none."""
    return metric.figures[name][place] if name in metric.figures else None


def difference_of(figure: Figure | None) -> PairedDifference[Seed] | None:
    """Look up the difference from the baseline; None if there is none."""
    return figure.difference if figure else None


def estimate_text(figure: Figure | None) -> str:
    """Format the mean of a figure with its interval."""
    return interval(figure.estimate, ".3f") if figure and figure.estimate else ""


def difference_text(difference: PairedDifference[Seed] | None) -> str:
    """Format a difference with its interval."""
    return interval(difference.estimate, "+z.3f") if difference else ""


def _seeds(figure: Figure | None, runs: int) -> str:
    """Count the seeds behind a figure, and mention it if the group has more."""
    n = len(figure.by_seed) if figure else 0
    return str(n) if n == runs else f"{n} of {runs}"
