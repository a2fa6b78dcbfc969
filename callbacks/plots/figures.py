"""Figures for loggers, drawn without pyplot, which keeps global state and may ask for a display."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
DPI = 80
PANEL = (3.1, 1.9)
HEADER, GAP = 0.9, 0.75
"""Sizes in inches: a panel, the space above the panels, and the space below each."""


def panels(titles: list[str], heading: str, note: str, left: float = 0.6) -> tuple["Figure", dict[str, "Axes"]]:
    """Lay out a figure with one panel per title.

    Args:
        titles: titles of the panels, at least one.
        heading: heading of the figure.
        note: a line below the heading that says how to read the figure.
        left: space for labels on the left of each panel, inches.

    Returns:
        The figure, and its axes by title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(titles), COLUMNS)
    rows = -(-len(titles) // columns)
    # a narrow figure would cut off its heading
    width, height = max(columns * (left + PANEL[0]) + 0.2, 8.0), HEADER + rows * (PANEL[1] + GAP)
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.25 / height, heading, ha="center", va="center", fontsize=12, fontweight="bold")
    figure.text(0.5, 1 - 0.5 / height, note, ha="center", va="center", fontsize=9, color="0.3")
    axes_of: dict[str, Axes] = {}
    for place, title in enumerate(titles):
        row, column = divmod(place, columns)
        # placed manually, since a layout engine draws everything three times
        x = left + column * (left + PANEL[0])
        y = height - HEADER - row * (PANEL[1] + GAP) - PANEL[1]
        axes = figure.add_axes((x / width, y / height, PANEL[0] / width, PANEL[1] / height))
        # a fixed height and few ticks, since placing titles and drawing tick labels takes most of the time
        axes.set_title(title, fontsize=10, y=1.02)
        axes.locator_params(nbins=4)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes_of[title] = axes
    return figure, axes_of


def pixels(figure: "Figure") -> np.ndarray:
    """Draw a figure of `panels` as RGB pixels, ``[height, width, 3]`` uint8."""
    canvas: Any = figure.canvas  # its methods are untyped
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
