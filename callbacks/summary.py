"""A table of the run at the start, and a table of its results at the end."""

from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.utilities import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.decline import METRIC, describe_decline
from lit_g2rpo.callbacks.logged import per_task, run_loggers
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.callbacks.run_folder import resume_command, run_folder, shown
from lit_g2rpo.training.run import RunHandles, handles

LOG_WIDTH = 160
"""Width of a table if the output is not a terminal, columns."""
PAGE = Path("rollouts", "index.html")
"""Page that `RolloutLog` writes to the run folder."""


class RunSummary(Observer):
    """Print a description of the run when it starts, and its first and last validation when it ends.

    Args:
        metric: validation metric of the final table, with a value per task and the mean.
    """

    def __init__(self, metric: str = "val/accuracy") -> None:
        super().__init__()
        self.metric = metric
        self._folder = Path()

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # finding the folder is collective, so all ranks must call this
        self._folder = run_folder(trainer)
        self._print_start(handles(pl_module))

    @rank_zero_only
    def _print_start(self, run: RunHandles) -> None:
        table = Table(title="this run", box=box.SIMPLE, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in run.describe().items():
            table.add_row(name, value)
        table.add_row("folder", str(shown(self._folder)))
        console().print(table)

    @override
    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        out = console()
        run = handles(pl_module)
        history = [values for values in run.validation_history if self.metric in values]
        if history:
            out.print(validation_table(history[0], history[-1], run.validation_sizes, self.metric))
        lines = [f"run folder:  {shown(self._folder)}"]
        lines += [logger.how_to_open(shown(self._folder)) for logger in run_loggers(trainer)]
        for keeper in trainer.checkpoint_callbacks:
            if isinstance(keeper, RolloutCheckpoint):
                if keeper.best_model_path:
                    lines.append(f"best:        {shown(Path(keeper.best_model_path))} ({self._best(keeper)})")
                elif keeper.start is not None:
                    lines.append(f"best:        the policy it started from ({keeper.monitor} {keeper.start:.3f})")
                if keeper.last_model_path:
                    lines.append(f"continue:    {resume_command(self._folder, keeper.last_model_path)}")
        if (page := self._folder / PAGE).is_file():
            lines.append(f"rollouts:    {shown(page)} (open it in a browser: what the policy saw and wrote)")
        if history and METRIC in history[0] and len(history) > 1:
            lost = describe_decline(history[0], history[-1])
            if lost is not None:
                lines.append(f"nothing gained: {lost}")
        for line in lines:
            # no wrapping or markup, so that paths and commands can be copied
            out.print(line, soft_wrap=True, markup=False, highlight=False)

    @staticmethod
    def _best(keeper: RolloutCheckpoint) -> str:
        score = "" if keeper.best_model_score is None else f" {float(keeper.best_model_score):.3f}"
        return f"{keeper.monitor}{score}"


def console() -> Console:
    """Return a console for tables, as wide as the terminal, or wide enough for a log."""
    found = Console()
    return found if found.is_terminal else Console(width=LOG_WIDTH)


def change(before: float | None, after: float) -> Text:
    """Format a difference, green for a gain and red for a loss; empty without an earlier value."""
    text = "" if before is None else f"{after - before:+.3f}"
    gained, lost = text.startswith("+") and float(text) > 0, text.startswith("-") and float(text) < 0
    return Text(text, "green" if gained else "red" if lost else "")


def validation_table(
    before: dict[str, float], after: dict[str, float], sizes: dict[str, int], metric: str = "val/accuracy"
) -> Table:
    """Lay out a validation metric at two moments side by side, per task and, in the last row, the mean.

    Args:
        sizes: validation rows of each task.
        metric: name of the mean; ``<metric>/<task>`` are the values of the tasks.
    """
    title = f"{metric} after {int(before.get('rollout', 0))} and after {int(after.get('rollout', 0))} rollouts"
    table = Table(title=title, box=box.SIMPLE, show_footer=True, title_justify="left")
    first, last = before[metric], after[metric]
    table.add_column("task", footer="mean")
    table.add_column("rows", justify="right", footer=str(sum(sizes.values())) if sizes else "")
    table.add_column("before", justify="right", footer=f"{first:.3f}")
    table.add_column("after", justify="right", footer=f"{last:.3f}")
    table.add_column("change", justify="right", footer=change(first, last))
    begun, ended = per_task(before, metric), per_task(after, metric)
    for task, value in ended.items():
        start = begun.get(task)
        table.add_row(
            task,
            str(sizes.get(task, "")),
            "" if start is None else f"{start:.3f}",
            f"{value:.3f}",
            change(start, value),
        )
    return table
