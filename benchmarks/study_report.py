"""The tables and the figure of docs/evidence.md, from docs/results/study.json.

python benchmarks/study_report.py            # prints the tables
python benchmarks/study_report.py --write    # puts them into docs/evidence.md, and draws the figure
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from study import RESULTS, ROOT, Results, Run, best_rate, final, screened
from study_design import ARMS, CONTRASTS, PHASES, RATES, ROLLOUTS, SEEDS, base_arm

from lit_g2rpo.comparison.statistics import Estimate, estimate, paired_difference
from lit_g2rpo.mini.tasks import TASKS

PAGE = ROOT / "docs" / "evidence.md"
FIGURE = ROOT / "docs" / "images" / "evidence.png"
BEGIN, END = "<!-- {}: written by benchmarks/study_report.py -->", "<!-- end of {} -->"
SHORT = {
    "spatial_grounding": "grounding",
    "spatial_reasoning": "spatial",
    "general_vqa_science_stem": "VQA",
    "math_reasoning": "math",
    "chart_figure_qa": "chart",
    "ocr": "OCR",
}
"""Short names of the tasks for tables."""
DISTURBED = {"scaled": "chart_figure_qa", "heavy": "ocr", "flipped": "math_reasoning"}
"""The task that a setting disturbs."""

Measure = Callable[[Mapping[str, Any]], float]


def judged(results: Results, setting: str, arm: str, measure: Measure = final) -> dict[int, float]:
    """Measure the runs of an arm at its own rate in a setting, by seed, without screening runs.

    Args:
        measure: maps a run of the results to a number.
    """
    phases = [phase for phase in PHASES.values() if phase.setting == setting and arm in phase.arms and phase.rates_of]
    phases = [phase for phase in phases if phase.rate is None]
    found = {}
    for phase in phases:
        rate = best_rate(results, str(phase.rates_of), base_arm(arm))
        for run in results.values():
            fits = (run["setting"], run["arm"], run["rollouts"], run["rate"]) == (setting, arm, ROLLOUTS, rate)
            if fits and run["seed"] in phase.seeds:
                found[run["seed"]] = measure(run)
    return dict(sorted(found.items()))


def arms_of(results: Results, setting: str) -> list[str]:
    """List the arms that have a judged run in a setting, in the order of the design."""
    return [arm for arm in ARMS if judged(results, setting, arm)]


def last(task: str) -> Measure:
    """Make a measure: accuracy of a task at the last validation."""
    return lambda run: float(run["validations"][-1][f"accuracy/{task}"])


def best(run: Mapping[str, Any]) -> float:
    """Return the best mean accuracy of a run's validations after training began."""
    return max(float(validation["accuracy"]) for validation in run["validations"][1:])


def window(name: str, which: int) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Make a measure by task over a window of rollouts, the first (0) or the last (-1)."""
    return lambda run: {
        task: run["windows"][which][f"{name}/{task}"] for task in TASKS if f"{name}/{task}" in run["windows"][which]
    }


def shown(found: Estimate, sign: str = "") -> str:
    """Write a mean with its interval."""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.3f}"
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def screening(results: Results) -> str:
    """Tabulate the screening of learning rates: mean accuracy after 75 rollouts, with the chosen rate in bold."""
    rows = []
    for setting in ("default", "mixed"):
        for arm in ARMS:
            cells = []
            for rate in RATES:
                found = screened(results, setting, arm, rate)
                text = f"{statistics.fmean(found):.3f}" if found else ""
                cells.append(f"**{text}**" if best_rate(results, setting, arm) == rate else text)
            if any(cells):
                rows.append([setting, f"`{arm}`", *cells])
    return table(["setting", "arm", *(f"{rate:g}" for rate in RATES)], rows)


def accuracies(results: Results, setting: str) -> str:
    """Tabulate the accuracy of every arm in a setting after the last rollout."""
    rows = []
    for arm in arms_of(results, setting):
        values = judged(results, setting, arm)
        tasks = [statistics.fmean(judged(results, setting, arm, last(task)).values()) for task in TASKS]
        peak = statistics.fmean(judged(results, setting, arm, best).values())
        cells = [f"{value:.3f}" for value in tasks]
        rows.append([f"`{arm}`", str(len(values)), shown(estimate(list(values.values()))), f"{peak:.3f}", *cells])
    return table(["arm", "seeds", "final mean [95 %]", "best", *SHORT.values()], rows)


def holm(p_values: list[float | None]) -> list[bool]:
    """Return which p-values are below 0.05 by Holm's procedure; contrasts without a measurement still count."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    rejected = [False] * len(p_values)
    for rank, (p, index) in enumerate(order):
        if p > 0.05 / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def contrasts(results: Results) -> str:
    """Tabulate the nine contrasts of the design."""
    found = [paired_difference(judged(results, s, arm), judged(results, s, other)) for s, arm, other in CONTRASTS]
    judgement = holm([one.p if one and len(one.seeds) == len(SEEDS) else None for one in found])
    rows = []
    for (setting, arm, other), difference, differs in zip(CONTRASTS, found, judgement, strict=True):
        row = [setting, f"`{arm}` - `{other}`"]
        if difference is None or difference.p is None:
            row += ["0", "not run yet", "", ""]
        else:
            complete = len(difference.seeds) == len(SEEDS)
            row += [str(len(difference.seeds)), shown(difference.estimate, "+"), f"{difference.p:.3f}"]
            row += ["differs" if differs else "no difference shown" if complete else "not complete"]
        rows.append(row)
    return table(["setting", "contrast", "pairs", "difference [95 %]", "p", "by Holm"], rows)


def against_grpo(results: Results) -> str:
    """Tabulate every arm's paired difference from GRPO, as a description without judgment."""
    rows = []
    for setting in ("default", "mixed"):
        for arm in arms_of(results, setting):
            difference = paired_difference(judged(results, setting, arm), judged(results, setting, "grpo"))
            if arm != "grpo" and difference is not None:
                rows.append([setting, f"`{arm}`", str(len(difference.seeds)), shown(difference.estimate, "+")])
    return table(["setting", "arm", "pairs", "less `grpo` [95 %]"], rows)


def added(results: Results) -> str:
    """Tabulate the runs that were added after the first results, and their paired difference to GRPO; not judged."""
    rows = []
    for phase in PHASES.values():
        for arm in phase.arms if phase.rate else ():
            keys = {seed: Run(phase.setting, arm, phase.rate or 0.0, seed, ROLLOUTS).key for seed in phase.seeds}
            values = {seed: final(results[key]) for seed, key in keys.items() if key in results}
            difference = paired_difference(values, judged(results, phase.setting, "grpo"))
            if values:
                row = [f"`{arm}`", f"{phase.rate:g}", str(len(values)), shown(estimate(list(values.values())))]
                rows.append([*row, shown(difference.estimate, "+") if difference else ""])
    return table(["arm", "rate", "seeds", "final mean [95 %]", "less `grpo` [95 %]"], rows)


def pulls(results: Results) -> str:
    """Tabulate each task's share of the gradient norm in the first and last 25 rollouts, and how unequal they are."""
    rows = []
    for setting in ("default", "mixed"):
        for arm in arms_of(results, setting):
            for when, which in (("first", 0), ("last", -1)):
                runs = [run for run in results.values() if _counts(results, run, setting, arm)]
                shares = [window("topology/gradient_share", which)(run) for run in runs]
                means = [statistics.fmean(share.get(task, 0.0) for share in shares) for task in TASKS]
                ratio = f"{max(means) / min(means):.1f}" if min(means) > 0.001 else ""
                cells = [f"{mean:.2f}" for mean in means]
                rows.append([setting, f"`{arm}`", when, *cells, ratio])
    return table(["setting", "arm", "rollouts", *SHORT.values(), "largest / smallest"], rows)


def _counts(results: Results, run: Mapping[str, Any], setting: str, arm: str) -> bool:
    own = (run["setting"], run["arm"], run["rollouts"]) == (setting, arm, ROLLOUTS)
    return own and run["seed"] in judged(results, setting, arm)


def robustness(results: Results) -> str:
    """Tabulate the effect of one disturbed reward on each arm: all tasks, the disturbed one, the mean of the others."""
    rows = []
    for setting, task in DISTURBED.items():
        others = [name for name in TASKS if name != task]
        measures: tuple[Measure, ...] = (
            final,
            last(task),
            lambda run, others=others: statistics.fmean(last(name)(run) for name in others),
        )
        for arm in arms_of(results, setting):
            changes = [
                paired_difference(judged(results, setting, arm, measure), judged(results, "default", arm, measure))
                for measure in measures
            ]
            pairs = str(len(changes[0].seeds)) if changes[0] else "0"
            cells = [shown(change.estimate, "+") if change else "" for change in changes]
            rows.append([setting, SHORT[task], f"`{arm}`", pairs, *cells])
    return table(["setting", "disturbed", "arm", "pairs", "all tasks", "disturbed task", "other tasks"], rows)


def flips(results: Results) -> str:
    """Tabulate the fraction of advantages whose sign the second map flipped, averaged over all rollouts and seeds."""
    rows = []
    for setting in ("default", "mixed"):
        for arm in arms_of(results, setting):
            runs = [run for run in results.values() if _counts(results, run, setting, arm)]
            shares = {
                task: [w[f"topology/sign_flips/{task}"] for run in runs for w in run["windows"] if _flips(w, task)]
                for task in TASKS
            }
            if any(any(values) for values in shares.values()):
                cells = [f"{statistics.fmean(values):.2f}" if values else "" for values in shares.values()]
                rows.append([setting, f"`{arm}`", *cells])
    return table(["setting", "arm", *SHORT.values()], rows)


def _flips(window: Mapping[str, float], task: str) -> bool:
    return f"topology/sign_flips/{task}" in window


def costs(results: Results) -> str:
    """Tabulate the cost of the study so far."""
    done = list(results.values())
    hours = sum(run["cpu_seconds"] for run in done) / 3600
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(run["commit"] for run in done))
    total = sum(len(p.arms) * len(p.seeds) * (1 if p.rates_of else len(RATES)) for p in PHASES.values())
    return f"{len(done)} of {total} runs, {hours:.1f} CPU-hours, at commits {commits}."


def tables(results: Results) -> Iterator[tuple[str, str]]:
    """Return every table, by name."""
    yield "progress", costs(results)
    yield "contrasts", contrasts(results)
    for setting in ("default", "mixed"):
        yield f"accuracies {setting}", accuracies(results, setting)
    yield "against grpo", against_grpo(results)
    yield "added", added(results)
    yield "screening", screening(results)
    yield "pulls", pulls(results)
    yield "flips", flips(results)
    yield "robustness", robustness(results)


def with_tables(page: str, results: Results) -> str:
    """Insert the tables between their marks in the text of the page."""
    for name, text in tables(results):
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = page.split(begin)
        page = before + f"{begin}\n\n{text}\n\n{end}" + rest.split(end)[1]
    return page


def draw(results: Results, path: Path) -> None:
    """Plot the final accuracy of every arm with its interval, with a panel for each of the two main settings."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    settings = [setting for setting in ("default", "mixed") if arms_of(results, setting)]
    figure, axes = plt.subplots(1, len(settings), figsize=(5 * len(settings), 4.6), layout="constrained", squeeze=False)
    for panel, setting in zip(axes[0], settings, strict=True):
        arms = arms_of(results, setting)[::-1]
        for row, arm in enumerate(arms):
            values = list(judged(results, setting, arm).values())
            found = estimate(values)
            color = "tab:orange" if arm.startswith("g2rpo") else "tab:blue"
            panel.plot(values, [row] * len(values), "o", color=color, alpha=0.25, markersize=4)
            if found.low is not None and found.high is not None:
                panel.plot([found.low, found.high], [row, row], color=color, linewidth=2)
            panel.plot(found.mean, row, "D", color=color, markersize=6)
        panel.set_yticks(range(len(arms)), arms)
        panel.set_title(f"{setting} rewards and shares")
        panel.set_xlabel("mean validation accuracy after 150 rollouts")
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--write", action="store_true", help="put the tables into the page, and draw the figure")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    if not arguments.write:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in tables(results)))
        return
    PAGE.write_text(with_tables(PAGE.read_text(), results))
    draw(results, FIGURE)


if __name__ == "__main__":
    main()
