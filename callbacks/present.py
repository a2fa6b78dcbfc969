"""Which tasks a rollout has: Lightning shows the metrics of the others from the last rollout that had them."""

from typing import Any, cast

import lightning.pytorch as L

from lit_g2rpo.callbacks.handles import handles


def present_tasks(pl_module: L.LightningModule) -> set[str]:
    """Name the tasks that the present rollout has prompts of, on any rank.

    Args:
        pl_module: the trained module, after it collected.

    Returns:
        Their names.
    """
    run = handles(pl_module)
    table = cast(Any, run.experience).table
    names = list(run.tasks)
    return {names[k] for k in table.task_ids.unique().tolist()}
