"""A comparison on the console."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_g2rpo.comparison.compare import Comparison
from lit_g2rpo.comparison.sheets import (
    Sheet,
    groups_sheet,
    keys_sheet,
    runs_sheet,
    tasks_of,
    tasks_sheet,
)

WIDTH = 190
MOST = 8
"""Maximum number of groups or tasks that get a column in a table; the page shows all."""


def show(found: Comparison) -> None:
    """Print tables and notes."""
    console = Console()
    if not console.is_terminal:
        # a file needs no line wrapping
        console = Console(width=WIDTH)
    for sheet in sheets(found):
        console.print(table(sheet))
    notes = list(found.notes)
    if (left := len(tasks_of(found)) - MOST) > 0:
        notes.append(f"{left} more tasks are on the page")
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)


def sheets(found: Comparison) -> Iterator[Sheet]:
    """Select the sheets for the console."""
    if len(found.groups) > 1:
        yield keys_sheet(found, MOST)
    yield groups_sheet(found)
    if tasks := tasks_of(found):
        yield tasks_sheet(found, tasks[:MOST])
    yield runs_sheet(found)


def table(sheet: Sheet) -> Table:
    """Lay out a sheet."""
    # as Text, since a value such as [a] would vanish as markup
    found = Table(title=Text(sheet.title), box=box.SIMPLE, title_justify="left")
    for number, name in enumerate(sheet.columns):
        found.add_column(Text(name), justify="left" if number < sheet.words else "right", overflow="fold")
    for row in sheet.rows:
        found.add_row(*map(Text, row.cells), style="dim" if row.faint else "")
    return found
