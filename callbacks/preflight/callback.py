"""The pre-flight check: it tries in the first minute what might otherwise end the run after hours."""

import time
from collections.abc import Callable
from functools import partial
from typing import cast

import lightning.pytorch as L
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from lit_g2rpo.callbacks.preflight.checkpoint import NAME, check_checkpoint, check_room, folders, remove
from lit_g2rpo.callbacks.preflight.checks import check_memory, check_parity, check_rewards, check_tags
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.planning.largest_prompts import extreme_prompts
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.training.run import Run, run_of


class Preflight(L.Callback):
    """Try the parts of a run before it starts, and stop it with one line that says what would have gone wrong.

    * largest micro-batch: forward and backward with the longest prompt, and with the prompt with the most pixels, with
      completions of full length (at most 512 tokens on the CPU), under the run's strategy and next to a full-size
      optimizer state;
    * log-probabilities: engine and trainer must agree on those of a small rollout;
    * tags: chat template and tokenizer allow a completion to have the form that the reward expects;
    * rewards: in each task, the gold answer of a row scores 1 and nonsense less; custom rewards do not fail;
    * checkpoint: written, read back and removed; the disk has space for those that the run keeps.

    The run's results are bitwise identical to those without this check. All ranks take part and decide alike.

    Args:
        memory: try the largest micro-batch.
        parity: compare log-probabilities; ``model.rollout.mean_gap`` and ``max_gap`` are the limits.
        rewards: try the tags and the rewards.
        checkpoint: write and read a checkpoint.
    """

    def __init__(
        self,
        memory: bool = True,
        parity: bool = True,
        rewards: bool = True,
        checkpoint: bool = True,
    ) -> None:
        self.memory, self.parity, self.rewards, self.checkpoint = memory, parity, rewards, checkpoint
        self._done = False

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._done = False

    @override
    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._done:
            return
        self._done = True
        run = run_of(pl_module)
        own, run.policy.backbone.counters = run.policy.backbone.counters, Counters()
        try:
            self._try_all(trainer, run)
        finally:
            run.policy.backbone.counters = own

    # if no validation comes first, as in a resumed run
    on_train_start = on_sanity_check_start

    def _try_all(self, trainer: L.Trainer, run: Run) -> None:
        data = cast(PromptData, trainer.datamodule)  # type: ignore[attr-defined]
        rows = data.train_dataset()
        prompts: list[Prompt] = []

        def find() -> str:
            prompts.extend(extreme_prompts(run.policy.processor, rows, data.max_prompt_tokens))
            return ""

        self._try(run, "training rows", find)
        if self.rewards:
            self._try(run, "tags", lambda: check_tags(run))
        if self.memory:
            self._try(run, "largest micro-batch", lambda: check_memory(run, prompts))
        if self.parity and run.engine.samples:
            self._try(run, "log-probabilities", lambda: check_parity(run, prompts))
        if self.rewards:
            self._try(run, "rewards", lambda: check_rewards(run, rows))
        for folder, count in folders(trainer).items() if self.checkpoint else ():
            try:
                self._try(run, "checkpoint", partial(check_room, run, folder))
                self._try(run, "checkpoint", partial(check_checkpoint, run, folder, count))
            finally:
                # by one rank per machine, which may have its own disk
                if trainer.local_rank == 0:
                    remove(folder / NAME)

    def _try(self, run: Run, name: str, check: Callable[[], str]) -> None:
        trainer, start = run.trainer, time.perf_counter()
        said = reason = ""
        try:
            with Step(f"pre-flight check, {name}"):
                said = check()
        except UserError as error:
            reason = f"rank {trainer.global_rank}: {error}" if trainer.world_size > 1 else str(error)
            if trainer.world_size > 1 and not isinstance(trainer.strategy.model, DistributedDataParallel):
                # the others may be waiting for this rank inside the check, and end when it ends
                raise UserError(f"pre-flight check, {name}: {reason}") from error
        if reason := run.ranks.first_message(reason):
            raise UserError(f"pre-flight check, {name}: {reason}")
        if said and trainer.is_global_zero:
            print(f"pre-flight check, {name}: {said} ({time.perf_counter() - start:.1f} s)", flush=True)
