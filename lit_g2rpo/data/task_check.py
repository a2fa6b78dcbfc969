"""Checks that the tasks named in a config exist in the rows."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lit_g2rpo.data.order.mixture import Mixture
from lit_g2rpo.errors import UserError


def check_tasks(configured: Iterable[str], rows: Sequence[str], mixture: Mixture | None, prompts: int) -> None:
    """Refuse a task that is misspelt, and a mixture that does not fit the tasks of the rows.

    Args:
        configured: tasks that the configuration adds to those that the data knows.
        rows: task of each training row.
        mixture: shares of the tasks, if they are not dealt in turn.
        prompts: prompts per rollout.

    Raises:
        UserError: in either case.
    """
    sizes = Counter(rows)
    for name in configured:
        if name in sizes:
            continue
        if near := difflib.get_close_matches(name, sizes, n=1):
            raise UserError(f"data.tasks.{name}: no training row has this task; did you mean {near[0]}?")
        rank_zero_warn(f"data.tasks.{name}: no training row has this task; they have {', '.join(sizes)}")
    if mixture is not None:
        mixture.expected(sizes, prompts)
