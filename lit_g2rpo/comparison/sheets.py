"""What a comparison says in tables, as text by row and column: for the console and for the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lit_g2rpo.comparison.compare import Comparison, to_target
from lit_g2rpo.comparison.groups import short_keys, show_seed
from lit_g2rpo.comparison.metrics import Figure, MetricComparison
from lit_g2rpo.comparison.runs import Seed
from lit_g2rpo.comparison.statistics import PairedDifference
from lit_g2rpo.comparison.words import amount, duration, interval, p_value


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a sheet.

    Args:
        cells: texts.
        group: place of the group that it is about; None if it is about none.
        faint: True for a row that belongs to the one above.
    """

    cells: list[str]
    group: int | None = None
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table.

    Args:
        title: what it shows.
        columns: their names.
        words: how many of them, from the left, are words; the others are figures.
        rows: its rows.
    """

    title: str
    columns: list[str]
    words: int
    rows: list[Row] = field(default_factory=list)


def tasks_of(found: Comparison) -> list[str]:
    """List the tasks that have the metric of the tables."""
    prefix = f"{found.metric}/"
    return [name.removeprefix(prefix) for name in found.metrics if name.startswith(prefix)]


def keys_sheet(found: Comparison) -> Sheet:
    """Lay out the keys in which groups differ, a column for each group."""
    keys = found.groups[0].values
    short = short_keys(list(keys))
    rows = [Row([short[key], *(group.values[key] for group in found.groups)]) for key in keys]
    return Sheet("What differs", ["key", *(str(group.number) for group in found.groups)], len(found.groups) + 1, rows)


def groups_sheet(found: Comparison) -> Sheet:
    """Lay out each group's figures, differences to the baseline, and costs to the target."""
    metric = found.metrics[found.metric]
    goal = "" if found.target is None else f" to {found.target:g}"
    figures = [name for name in ("last", "best", "mean") if name in metric.figures]
    columns = ["", "group", "seeds", *figures, f"minus group {found.baseline + 1}", "p"]
    place_of = "" if metric.common is None else f" at rollout {metric.common}"
    sheet = Sheet(
        f"{found.metric}{place_of}, mean and 95 % interval over seeds",
        [*columns, f"rollouts{goal}", f"tokens{goal}", f"seconds{goal}"],
        2,
    )
    for place, group in enumerate(found.groups):
        reached, spent = to_target(found.costs[place])
        rollouts = interval(spent["rollouts"], ".0f") if spent else f"{reached} of {len(group.runs)} runs"
        difference = difference_of(metric, place)
        cells = [
            str(group.number),
            group.name,
            _seeds(figure_of(metric, "last", place), len(group.runs)),
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
    """Lay out the last figure of each task, and below it the difference to the baseline and its p-value."""
    title = f"{found.metric} of each task, below it the difference to group {found.baseline + 1}"
    sheet = Sheet(title, ["", "group", *tasks], 2)
    metrics = [found.metrics[f"{found.metric}/{task}"] for task in tasks]
    for place, group in enumerate(found.groups):
        figures = [estimate_text(figure_of(metric, "last", place)) for metric in metrics]
        sheet.rows.append(Row([str(group.number), group.name, *figures], place))
        differences = [difference_of(metric, place) for metric in metrics]
        if any(differences):
            texts = [", p ".join(filter(None, (difference_text(one), p_value(one)))) for one in differences]
            sheet.rows.append(Row(["", "", *texts], place, faint=True))
    return sheet


def runs_sheet(found: Comparison) -> Sheet:
    """Lay out what each run has cost, in the order of the groups."""
    columns = ["run", "group", "seed", "rollouts", "tokens", "training", "wall clock", "ranks", found.metric]
    sheet = Sheet("What each run has cost", columns, 1)
    metric = found.metrics[found.metric]
    for place, (group, costs) in enumerate(zip(found.groups, found.costs, strict=True)):
        last = figure_of(metric, "last", place)
        for (seed, run), cost in zip(group.runs.items(), costs, strict=True):
            value = last.by_seed.get(seed) if last else None
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
    """Look a figure of a group up; None if it has none."""
    return metric.figures[name][place] if name in metric.figures else None


def difference_of(metric: MetricComparison, place: int) -> PairedDifference[Seed] | None:
    """Look the last difference of a group to the baseline up; None if there is none."""
    figure = figure_of(metric, "last", place)
    return figure.difference if figure else None


def estimate_text(figure: Figure | None) -> str:
    """Write the mean of a figure with its interval."""
    return interval(figure.estimate, ".3f") if figure and figure.estimate else ""


def difference_text(difference: PairedDifference[Seed] | None) -> str:
    """Write a difference with its interval."""
    return interval(difference.estimate, "+.3f") if difference else ""


def _seeds(figure: Figure | None, runs: int) -> str:
    """Count the seeds behind a figure, and say where a group has more."""
    n = len(figure.by_seed) if figure else 0
    return str(n) if n == runs else f"{n} of {runs}"


def console_sheets(found: Comparison, most: int) -> Iterator[Sheet]:
    """Choose the sheets for a console.

    Args:
        most: groups or tasks that a sheet may have columns for.
    """
    if 1 < len(found.groups) <= most:
        yield keys_sheet(found)
    yield groups_sheet(found)
    tasks = tasks_of(found)
    if tasks:
        yield tasks_sheet(found, tasks[:most])
    yield runs_sheet(found)
