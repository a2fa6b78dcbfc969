"""The policy's prompts and completions, as files with a page that opens from disk, and in the loggers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_g2rpo.callbacks.logged import run_loggers
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.callbacks.rollouts.files import RolloutFiles
from lit_g2rpo.callbacks.rollouts.record import Record, group_record, small_image
from lit_g2rpo.callbacks.rollouts.text import group_text
from lit_g2rpo.callbacks.rollouts.token_text import TokenText
from lit_g2rpo.callbacks.rollouts.validation_groups import ValidationGroups
from lit_g2rpo.callbacks.run_folder import run_folder
from lit_g2rpo.callbacks.watch import RolloutWatch
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Experience, Prompt
from lit_g2rpo.loggers import ShownGroup
from lit_g2rpo.training.run import RunHandles, handles


class RolloutLog(Observer):
    """Write rollouts to the folder ``rollouts`` of the run, and show a few groups from some of them in the loggers.

    The folder holds JSON lines and ``index.html``, which opens from disk during and after the run. The first rank
    writes the groups of its own prompts, and for each validation, those of the same few prompts per task, from any
    rank. The groups in the loggers, with their images, completions, rewards and advantages, are the first of each task
    in turn, so the choice is not random.

    Args:
        every_rollouts: interval between rollouts shown in the loggers, rollouts.
        groups: number of groups to show from each of them.
        write_every: interval between rollouts written to the folder, rollouts; 0 for no folder.
        write_groups: number of groups to write from each of them, chosen in the same way; None for all.
        validation_prompts: number of prompts per task to write from every validation, the first in the data; 0 for
            none.
        keep: number of newest rollouts to keep in the folder; None for as many as ``keep_mib`` allows.
        keep_mib: size above which the folder's oldest rollouts are removed, and then its oldest validations, MiB.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(
        self,
        every_rollouts: int = 10,
        groups: int = 4,
        write_every: int = 1,
        write_groups: int | None = None,
        validation_prompts: int = 4,
        keep: int | None = None,
        keep_mib: float = 512,
    ) -> None:
        if every_rollouts < 1 or groups < 1:
            raise UserError(f"RolloutLog: every_rollouts ({every_rollouts}) and groups ({groups}) must be at least 1")
        if write_every < 0:
            raise UserError(f"RolloutLog.write_every is {write_every}; it must be at least 1, or 0 for no files")
        if validation_prompts < 0:
            raise UserError(
                f"RolloutLog.validation_prompts is {validation_prompts}; it must be at least 1, or 0 for none"
            )
        for name, number in {"write_groups": write_groups, "keep": keep}.items():
            if number is not None and number < 1:
                raise UserError(f"RolloutLog.{name} is {number}; it must be at least 1, or null for all")
        if keep_mib <= 0:
            raise UserError(f"RolloutLog.keep_mib is {keep_mib}; it must be above 0")
        super().__init__()
        self.every_rollouts, self.groups = every_rollouts, groups
        self.write_every, self.write_groups = write_every, write_groups
        self.keep, self.keep_mib = keep, keep_mib
        self._watch = RolloutWatch()
        self._files: RolloutFiles | None = None
        self._validation = ValidationGroups(validation_prompts)

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._files = None

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer, handles(pl_module))

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = handles(pl_module)
        self._watch.start(run)
        self._open(trainer, run)

    def _open(self, trainer: L.Trainer, run: RunHandles) -> None:
        """Open the folder, before the first validation or, if there is none, before training."""
        # finding the folder is collective, so all ranks must call this
        folder = run_folder(trainer)
        self._spell = TokenText(run.tokenizer, run.opened)
        if self._files is not None or not self.write_every or not trainer.is_global_zero:
            return
        if not getattr(trainer, "fast_dev_run", False):
            title = f"{folder.parent.name}/{folder.name}"
            self._files = RolloutFiles(folder / "rollouts", title, self.keep, self.keep_mib)
            with self.aside.guard():
                self._files.open(run.rollout_index)

    def _writes_validation(self, trainer: L.Trainer) -> bool:
        """Return whether a validation is written, the same on every rank even if something failed on one."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not getattr(trainer, "fast_dev_run", False)
        return fitting and bool(self.write_every and self._validation.per_task)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._writes_validation(trainer):
            self._validation.start(trainer.val_dataloaders)

    @override
    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        if self._writes_validation(trainer):
            self._validation.add(handles(pl_module), self._spell)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._writes_validation(trainer):
            return
        run = handles(pl_module)
        groups = self._validation.gather(run.ranks)
        if groups and self._files is not None:
            self._files.write(run.rollout_index, groups, "validation")

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = handles(pl_module)
        rollout = self._watch.new_rollout(run)
        if rollout is None or not trainer.is_global_zero:
            return
        # always write the first rollout
        past = run.rollout_index - 1
        if self._files is not None and past % self.write_every == 0:
            # loggers may work even if files fail
            with self.aside.guard():
                number = len(rollout.prompts) if self.write_groups is None else self.write_groups
                chosen = sorted(choose(rollout.prompts, number, past // self.write_every))
                groups = [(self._record(run, rollout, index), rollout.prompts[index].pictures) for index in chosen]
                self._files.write(run.rollout_index, groups)
        loggers = run_loggers(trainer)
        if loggers and past % self.every_rollouts == 0:
            shown = self._chosen(run, rollout)
            for logger in loggers:
                logger.show_groups(shown, run.rollout_index)

    def _record(self, run: RunHandles, rollout: Experience, index: int) -> Record:
        return {"step": run.trainer.global_step, **group_record(rollout, index, run.reward, self._spell)}

    def _chosen(self, run: RunHandles, rollout: Experience) -> list[ShownGroup]:
        copies, found = defaultdict[str, int](int), []
        for index in choose(rollout.prompts, self.groups, (run.rollout_index - 1) // self.every_rollouts):
            prompt = rollout.prompts[index]
            copies[prompt.task] += 1
            name = f"groups/{prompt.task}" + (f"/{copies[prompt.task]}" if copies[prompt.task] > 1 else "")
            record = self._record(run, rollout, index)
            images = [np.asarray(small_image(image)) for image in prompt.pictures]
            found.append(ShownGroup(name, record, group_text(record), images))
        return found


def choose(prompts: Sequence[Prompt], groups: int, turn: int) -> list[int]:
    """Choose prompts of a rollout by index, alternating between tasks.

    Args:
        groups: maximum number of prompts.
        turn: number of earlier choices; each turn starts with a later task, so that every task gets its turn.
    """
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_task[prompt.task].append(index)
    tasks = sorted(by_task)
    first = turn * groups % len(tasks) if tasks else 0
    order = tasks[first:] + tasks[:first]
    rounds = max((len(indices) for indices in by_task.values()), default=0)
    turns = [by_task[task][number] for number in range(rounds) for task in order if number < len(by_task[task])]
    return turns[:groups]
