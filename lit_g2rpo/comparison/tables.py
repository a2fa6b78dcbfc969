"""A comparison on the console."""

from rich import box
from rich.console import Console
from rich.table import Table

from lit_g2rpo.comparison.compare import Comparison
from lit_g2rpo.comparison.sheets import Sheet, console_sheets, tasks_of

WIDTH = 190
MOST = 8
"""Groups or tasks that a table has columns for; the page has all."""


def show(found: Comparison) -> None:
    """Print tables, and what a reader must be told."""
    console = Console()
    if not console.is_terminal:
        # a file has no edge to wrap at
        console = Console(width=WIDTH)
    for sheet in console_sheets(found, MOST):
        console.print(table(sheet))
    notes = list(found.notes)
    if len(found.groups) > MOST:
        notes.append(f"what {len(found.groups)} groups differ in is on the page")
    if (left := len(tasks_of(found)) - MOST) > 0:
        notes.append(f"{left} more tasks are on the page")
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)


def table(sheet: Sheet) -> Table:
    """Lay out a sheet."""
    found = Table(title=sheet.title, box=box.SIMPLE, title_justify="left")
    for number, name in enumerate(sheet.columns):
        found.add_column(name, justify="left" if number < sheet.words else "right", overflow="fold")
    for row in sheet.rows:
        found.add_row(*row.cells, style="dim" if row.faint else "")
    return found
