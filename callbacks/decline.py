"""Check whether a validation finds the policy worse than at the start, and what became worse."""

from collections.abc import Mapping

from lit_g2rpo.callbacks.logged import per_task

METRIC = "val/accuracy"
SIGNS = {"format": "lower", "truncated": "higher"}
"""Other validation metrics that may explain a drop in accuracy, and the direction that does."""


def fall(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Measure how far the mean accuracy of a validation is below that of the first; 0 if it is not."""
    return max(0.0, before[METRIC] - after[METRIC])


def describe_decline(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """Describe what became worse since the first validation.

    Args:
        before: metrics of the first validation by name.
        after: metrics of the latest validation by name.

    Returns:
        One line with the tasks that dropped, the largest drop first; None if the mean did not drop and is not 0.
    """
    first, last = before[METRIC], after[METRIC]
    if last >= first and last > 0:
        return None
    head = f"{METRIC} is {last:.3f}, at the start {first:.3f}"
    begun, ended = per_task(before, METRIC), per_task(after, METRIC)
    tasks = [task for task in ended if ended[task] < begun.get(task, 0.0)]
    tasks.sort(key=lambda task: ended[task] - begun[task])
    parts = [f"{task} {begun[task]:.3f} -> {ended[task]:.3f}" for task in tasks]
    for name, worse in SIGNS.items():
        was, now = before.get(f"val/{name}"), after.get(f"val/{name}")
        if was is not None and now is not None and (now < was if worse == "lower" else now > was):
            parts.append(f"{name} {was:.3f} -> {now:.3f}")
    return ": ".join([head, ", ".join(parts)]) if parts else head
