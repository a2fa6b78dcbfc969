"""The optimizer of a resumed run: its state comes from the checkpoint, its settings from the current config."""

import copy
import warnings
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import learning_parts
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import one_line

NEW_RUN = "start a new run from these weights: export --output DIR, then fit --model.policy.path DIR"


class OptimizerSettings:
    """Describe an optimizer and its schedule as configured, which restoring a checkpoint's state would hide.

    Args:
        policy: the policy whose parts are trained.
        config: its settings, for the learning rate of each part.
        optimizer: creates the optimizer.
        lr_scheduler: creates the schedule; None for a constant learning rate.
    """

    def __init__(
        self,
        policy: Policy,
        config: PolicyConfig,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
    ) -> None:
        self._parts, self._scale = learning_parts(policy), config.lr_scale
        self._make, self._schedule = optimizer, lr_scheduler

    def build(self, parameters: list[list[nn.Parameter]] | None = None) -> torch.optim.Optimizer:
        """Create the optimizer, with a learning rate for each part.

        Args:
            parameters: parameters of each part; the policy's by default.

        Raises:
            UserError: if nothing is trained, or the optimizer rejects its options.
        """
        if not self._parts:
            raise UserError("model.policy.freeze keeps every part from learning; leave one of them out")
        parts = list(self._parts.values()) if parameters is None else parameters
        try:
            optimizer = self._make([{"params": part} for part in parts])
        except (TypeError, ValueError) as error:
            raise UserError(f"model.optimizer cannot be built: {one_line(error)}") from error
        for part, group in zip(self._parts, optimizer.param_groups, strict=True):
            group["lr"] *= self._scale.get(part, 1.0)
        return optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's class and options, group by group, and the schedule before its first step."""
        optimizer = self._probe()
        state: dict[str, Any] = {
            "class": _name(optimizer),
            "parts": list(self._parts),
            "options": [_options(group) for group in optimizer.param_groups],
            "schedule": None,
        }
        if (schedule := self.build_schedule(optimizer)) is not None:
            state["schedule"] = {"class": _name(schedule), "state": copy.deepcopy(schedule.state_dict())}
        return state

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Create the schedule of an optimizer; None for a constant learning rate.

        Raises:
            UserError: if the schedule rejects its options.
        """
        try:
            return None if self._schedule is None else self._schedule(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.lr_scheduler cannot be built: {one_line(error)}") from error

    def check(self, saved: dict[str, Any]) -> None:
        """Refuse settings that do not fit the optimizer state of a checkpoint.

        Args:
            saved: the checkpoint's ``state_dict``.

        Raises:
            UserError: if the class differs, or an option needs state that was not kept.
        """
        now = self.state_dict()
        for key, what in (("class", "optimizer"), ("parts", "parts that learn")):
            if saved[key] != now[key]:
                raise UserError(
                    f"the {what} of the checkpoint: {saved[key]}, here: {now[key]}; its optimizer state does not fit. "
                    f"Resume with the same, or {NEW_RUN}"
                )
        if saved["options"] == now["options"]:
            return
        if missing := sorted(self._kept(now).keys() - self._kept(saved).keys()):
            changed = sorted(
                {key for was, new in zip(saved["options"], now["options"], strict=True) for key in _differ(was, new)}
            )
            raise UserError(
                f"model.optimizer: with {', '.join(changed)} changed it needs {', '.join(missing)} in "
                f"the optimizer's state, which it does not hold; resume with the same, or {NEW_RUN}"
            )

    def adopt(self, saved: dict[str, Any], trainer: L.Trainer) -> None:
        """Apply the current settings to an optimizer that was restored with the settings of the checkpoint.

        A changed schedule continues at the current step, as if it had been used from the start.

        Args:
            saved: the checkpoint's ``state_dict``.
            trainer: the trainer, after it has restored its state.

        Raises:
            UserError: if the schedule does not reach that step.
        """
        now, renewed = self.state_dict(), self.reschedules(saved)
        optimizer = trainer.optimizers[0]
        for group, was, new in zip(optimizer.param_groups, saved["options"], now["options"], strict=True):
            # the old schedule may have changed more than the learning rate
            group.update({key: new[key] for key in (new if renewed else _differ(was, new))})
        if saved["options"] != now["options"]:
            self._move_state(optimizer, saved, now)
        if renewed and self._schedule is not None:
            config = trainer.lr_scheduler_configs[0]
            # a schedule does not accept DeepSpeed's wrapper; the optimizer inside has the same groups
            config.scheduler = self._scheduled(config.scheduler.optimizer, trainer.global_step)

    def reschedules(self, saved: dict[str, Any]) -> bool:
        """Return whether learning rate or schedule differs from the checkpoint's, whose schedule is then dropped."""
        now = self.state_dict()
        rates = [[options["lr"] for options in state["options"]] for state in (saved, now)]
        return bool(saved["schedule"] != now["schedule"] or rates[0] != rates[1])

    def _scheduled(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        assert self._schedule is not None
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)
        try:
            with warnings.catch_warnings():
                # torch warns that the schedule steps before the optimizer, which is intended here
                warnings.simplefilter("ignore")
                schedule = self._schedule(optimizer)
                for _ in range(steps):
                    schedule.step()
        except ValueError as error:
            raise UserError(f"model.lr_scheduler cannot go on at optimizer step {steps}: {error}") from error
        return schedule

    def _probe(self, device: bool = False) -> torch.optim.Optimizer:
        """Create the optimizer over small weights of the same types."""
        return self.build([
            [nn.Parameter(torch.ones(2, 2, dtype=part[0].dtype, device=part[0].device if device else "cpu"))]
            for part in self._parts.values()
        ])  # fmt: skip

    def _kept(self, settings: dict[str, Any]) -> dict[str, torch.device | None]:
        """Run a step to find which state an optimizer with these options keeps for a weight, and on which device."""
        optimizer = self._probe(device=True)
        for group, options in zip(optimizer.param_groups, settings["options"], strict=True):
            group.update(options)
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()
        states = [state for state in optimizer.state.values() if isinstance(state, dict)]
        return {
            key: value.device if isinstance(value, torch.Tensor) else None
            for state in states
            for key, value in state.items()
            if value is not None
        }

    def _move_state(self, optimizer: Any, saved: dict[str, Any], now: dict[str, Any]) -> None:
        """Move counters that fused optimizers keep on the device and others in host memory."""
        before, after = self._kept(saved), self._kept(now)
        moved = {key: device for key, device in after.items() if device is not None and device != before.get(key)}
        for state in optimizer.state.values() if moved else ():
            for key in moved.keys() & state.keys():
                state[key] = state[key].to(moved[key])


def _name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}


def _differ(was: dict[str, Any], now: dict[str, Any]) -> set[str]:
    return {key for key in now if key not in was or was[key] != now[key]}
