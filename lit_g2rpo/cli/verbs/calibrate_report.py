"""The report of ``calibrate``: a table and a plot."""

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from lit_g2rpo.objectives.calibration import Measured, Style, quantile
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand

WIDTH = 160
MANY_TRUNCATED = 0.1


@dataclass(slots=True, frozen=True)
class Proposal:
    """The bands of a task and their origin.

    Args:
        style: intended style of answers.
        measured: measurements of the starting policy.
        length: proposed length band, tokens.
        entropy: proposed entropy band, nats.
    """

    task: str
    style: Style
    measured: Measured
    length: LengthBand
    entropy: EntropyBand


def spread(values: Sequence[float], digits: int) -> str:
    """Format the 0.1, 0.5 and 0.9 quantiles with a number of decimals; a dash without values."""
    return " ".join(f"{quantile(values, q):.{digits}f}" for q in (0.1, 0.5, 0.9)) if values else "-"


def show(proposals: list[Proposal], longest: int, entropy: str) -> None:
    """Print the measurements and proposals.

    Args:
        longest: longest completion, tokens.
        entropy: the kind of entropy measured, ``exact`` or ``sampled``.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    print(f"lengths in tokens, {entropy} entropies in nats; quantiles 0.1, 0.5, 0.9 of completions")
    table = Table("task", "style", box=box.SIMPLE_HEAD)
    for name in ("accuracy", "length", "of right", "of wrong", "band", "entropy", "of right", "of wrong", "band"):
        table.add_column(name, justify="right")
    for proposal in proposals:
        found = proposal.measured
        table.add_row(
            proposal.task,
            proposal.style,
            f"{statistics.fmean(found.accuracies):.3f}",
            f"{found.mean_length:.1f}",
            spread(found.of(found.lengths, True), 0),
            spread(found.of(found.lengths, False), 0),
            " ".join(f"{value:g}" for value in astuple(proposal.length)),
            f"{found.mean_entropy:.3f}",
            spread(found.of(found.entropies, True), 2),
            spread(found.of(found.entropies, False), 2),
            " ".join(f"{value:g}" for value in astuple(proposal.entropy)),
        )
    console.print(table)
    for proposal in proposals:
        share = statistics.fmean(proposal.measured.truncated)
        if share > MANY_TRUNCATED:
            print(
                f"note: {share:.0%} of the completions of {proposal.task} hit the limit of {longest} tokens, so its "
                "lengths are longer than they look; raise data.max_completion_tokens"
            )


def figure(proposals: list[Proposal]) -> Any:
    """Plot lengths and entropies of right and wrong completions by task, with the proposed bands shaded."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 1.2 + 1.5 * len(proposals)), layout="constrained")
    axes = drawn.subplots(len(proposals), 2, squeeze=False)
    for (left, right), proposal in zip(axes, proposals, strict=True):
        found, length, entropy = proposal.measured, proposal.length, proposal.entropy
        left.axvspan(length.minimum, length.maximum, color="tab:green", alpha=0.10, lw=0)
        left.axvspan(length.low, length.high, color="tab:green", alpha=0.22, lw=0)
        right.axvspan(entropy.low, entropy.high, color="tab:green", alpha=0.22, lw=0)
        for axis, values, mean in (
            (left, found.lengths, found.mean_length),
            (right, found.entropies, found.mean_entropy),
        ):
            parts = [found.of(values, correct) for correct in (True, False)]
            axis.hist(parts, bins=30, histtype="step", color=["tab:blue", "tab:orange"], label=["right", "wrong"])
            axis.axvline(mean, color="black", lw=0.8, ls=":", label="mean")
            axis.set_xlim(left=0)
            axis.set_yticks([])
        left.set_ylabel(f"{proposal.task}\n({proposal.style})", rotation=0, ha="right", va="center")
    axes[0][0].set_title("completion length, and proposed band")
    axes[0][1].set_title("mean token entropy, and proposed band")
    axes[0][1].legend(loc="upper right", fontsize="small")
    axes[-1][0].set_xlabel("tokens")
    axes[-1][1].set_xlabel("nats")
    return drawn
