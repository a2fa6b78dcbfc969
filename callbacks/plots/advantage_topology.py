"""Does every task contribute equally? Rewards, advantages and gradients by task and problem type, in the loggers."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.callbacks.logged import run_loggers
from lit_g2rpo.callbacks.plots.advantage_figures import pull_figure, quantile_figure
from lit_g2rpo.callbacks.plots.advantage_stats import advantage_stats, flipped_signs
from lit_g2rpo.callbacks.plots.figures import pixels
from lit_g2rpo.callbacks.watch import RolloutWatch
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Microbatch, RolloutTable
from lit_g2rpo.hardware.aside import Aside
from lit_g2rpo.loggers import RunLogger
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.rewards import problem_type_of_id
from lit_g2rpo.training.run import Run, run_of
from lit_g2rpo.training.task_gradients import measured_parameters, task_gradients

MEMORY = 20
"""Measurements averaged in the figure of pulls, since one micro-batch may not contain every task."""


class AdvantageTopology(L.Callback):
    """Show how rewards become advantages in each task and problem type, and each task's share of the gradient.

    Every rollout logs ``topology/<what>/<task>`` and ``topology/<what>/type/<problem type>`` over all ranks:
    ``tie_rate``, ``tied_groups``, ``levels``, ``mean_abs``, ``variance`` and, under the Gaussian map, ``sign_flips``
    (see `advantage_stats`). Histograms of rewards and advantages are logged every few rollouts, the figures
    ``topology/quantiles`` and ``topology/pull`` less often. The gradient is measured on one micro-batch at a time, in
    turn, after the first optimizer step of the rollout (see `task_gradients`): ``topology/gradient_share/<task>`` is
    the task's norm over the sum of all norms, ``topology/token_share/<task>`` its share of the tokens, and
    ``topology/gradient_seconds`` the time this took.

    Args:
        every_rollouts: interval between figures, rollouts.
        histograms_every: interval between histograms, rollouts.
        gradients_every: interval between measurements of the gradient, rollouts; 0 for none.

    Raises:
        UserError: if an interval is out of range.
    """

    def __init__(self, every_rollouts: int = 50, gradients_every: int = 25, histograms_every: int = 5) -> None:
        for name, interval in {"every_rollouts": every_rollouts, "histograms_every": histograms_every}.items():
            if interval < 1:
                raise UserError(f"AdvantageTopology.{name} is {interval}; it must be at least 1 rollout")
        if gradients_every < 0:
            raise UserError(f"AdvantageTopology.gradients_every is {gradients_every}; give at least 1, or 0 for none")
        self.every_rollouts, self.gradients_every = every_rollouts, gradients_every
        self.histograms_every = histograms_every
        self._watch, self._aside = RolloutWatch(), Aside(type(self).__name__)
        self._pulls: deque[dict[str, list[float]]] = deque(maxlen=MEMORY)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = run_of(pl_module)
        self._watch.start(run)
        if self.gradients_every and not measured_parameters(run.policy):
            rank_zero_warn(
                "AdvantageTopology measures no gradient: the last decoder layer is frozen or its weights are split "
                "over ranks; gradients_every: 0 says so in the config"
            )

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = run_of(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None:
            return
        # always log the first rollout in full
        table, past = rollout.table, run.rollout_index - 1
        values: dict[str, float] = {}
        if self.gradients_every and past % self.gradients_every == 0:
            turn = past // self.gradients_every % len(rollout.microbatches)
            values |= self._measure(run, rollout.microbatches[turn])
        if not trainer.is_global_zero:
            return
        flipped = flipped_signs(table) if isinstance(run.objective, G2RPO) else None
        sets = topology_sets(table, list(run.tasks))
        for name, prompts in sets.items():
            stats = advantage_stats(table, prompts, flipped)
            values |= {f"topology/{what}/{name}": value for what, value in stats.items()}
        pl_module.log_dict(values)
        # the gradients above need all ranks, but the figures do not
        with self._aside.guard():
            loggers = run_loggers(trainer)
            if past % self.histograms_every == 0:
                show_histograms(loggers, table, sets, run.rollout_index)
            if past % self.every_rollouts == 0:
                self._show_figures(loggers, table, sets, values, run.rollout_index)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._aside.report()

    def _measure(self, run: Run, microbatch: Microbatch) -> dict[str, float]:
        start = time.perf_counter()
        found = task_gradients(run, microbatch)
        self._pulls.append({name: [pull.norm, float(pull.tokens)] for name, pull in found.items()})
        gradients, tokens = pull_shares([self._pulls[-1]])
        values = {f"topology/gradient_share/{name}": share for name, share in gradients.items()}
        values |= {f"topology/token_share/{name}": share for name, share in tokens.items()}
        return values | {"topology/gradient_seconds": time.perf_counter() - start}

    def _show_figures(
        self,
        loggers: list[RunLogger],
        table: RolloutTable,
        sets: dict[str, Tensor],
        values: dict[str, float],
        rollout: int,
    ) -> None:
        by_type = {name: counted(table, prompts) for name, prompts in sets.items() if name.startswith("type/")}
        by_type = {name.removeprefix("type/"): found for name, found in by_type.items() if len(found)}
        size = "topology/mean_abs/"
        mean_abs = {name: values[size + name] for name in sets if size + name in values and "type/" not in name}
        if by_type and loggers:
            figures = {"quantiles": quantile_figure(by_type), "pull": pull_figure(mean_abs, *pull_shares(self._pulls))}
            for name, figure in figures.items():
                drawn = pixels(figure)
                for logger in loggers:
                    logger.show_image(f"topology/{name}", drawn, rollout)

    @override
    def state_dict(self) -> dict[str, Any]:
        # the latest gradient measurements: norm and tokens by task
        return {"pulls": [dict(pull) for pull in self._pulls]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._pulls = deque(state_dict["pulls"], maxlen=MEMORY)


def topology_sets(table: RolloutTable, tasks: list[str]) -> dict[str, Tensor]:
    """Find the prompts of each ``<task>`` and ``type/<problem type>`` in a rollout, ``[P]`` bool, at least one each."""
    task_ids, type_ids = table.task_ids, table.problem_type_ids
    sets = {tasks[k]: task_ids == k for k in sorted(set(task_ids.tolist()))}
    types = {k: problem_type_of_id(k).replace(" ", "_") for k in sorted(set(type_ids.tolist()))}
    return sets | {f"type/{name}": type_ids == k for k, name in types.items()}


def counted(table: RolloutTable, prompts: Tensor) -> Tensor:
    """Select the advantages that count, ``[N]``, of the given prompts, ``[P]`` bool."""
    return table.advantages[table.valid & prompts[:, None]]


def show_histograms(loggers: list[RunLogger], table: RolloutTable, sets: dict[str, Tensor], rollout: int) -> None:
    """Show the distribution of rewards, and of advantages that count, in each set of prompts."""
    for name, prompts in sets.items():
        advantages = counted(table, prompts)
        for logger in loggers:
            logger.show_histogram(f"topology/rewards/{name}", table.rewards[prompts], rollout)
            if len(advantages):
                logger.show_histogram(f"topology/advantages/{name}", advantages, rollout)


def pull_shares(pulls: Iterable[dict[str, list[float]]]) -> tuple[dict[str, float], dict[str, float]]:
    """Convert measurements of norm and tokens by task to shares by task.

    A task's norm is its mean over the measurements that include the task, and its tokens are their sum.
    """
    found: dict[str, list[list[float]]] = {}
    for pull in pulls:
        for name, value in pull.items():
            found.setdefault(name, []).append(value)
    sums = {name: torch.tensor(values, dtype=torch.float64).sum(0) for name, values in found.items()}
    norms = {name: float(total[0]) / len(found[name]) for name, total in sums.items()}
    tokens = {name: float(total[1]) for name, total in sums.items()}
    return _shares(norms), _shares(tokens)


def _shares(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total for name, value in values.items()} if total else {}
