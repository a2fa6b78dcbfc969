"""Lightning's view of the data: loaders for a set of prompts, with sizes from the module that uses them."""

import difflib
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_g2rpo.data.evaluation_batches import ShardedBatches
from lit_g2rpo.data.lengths import Outlined, check_lengths
from lit_g2rpo.data.loader import PromptDataset, RolloutLoader
from lit_g2rpo.data.order.mixture import Mixture
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rollout.config import RolloutConfig, UpdateConfig
from lit_g2rpo.tasks import Task, paper_tasks, with_bands

if TYPE_CHECKING:
    # imports transformers, which takes seconds
    from lit_g2rpo.policy.policy import Policy


class PromptUser(Protocol):
    """What the loaders need from the module that uses the prompts."""

    policy: "Policy"
    reward: RewardConfig
    rollout: RolloutConfig
    update: UpdateConfig

    @property
    def prompt_template(self) -> str | None:
        """The prompt template that the policy was trained with; None if its folder has none."""

    def prepare_prompt(self, prompt: Prompt) -> None:
        """Fill the prompt's ``encoded``, in any thread."""
        ...


class PromptData(LightningDataModule):
    """Base class of all sources of prompts: subclasses provide the datasets, this class the loaders.

    The sizes come from the module: ``rollout.prompts``, ``rollout.seed`` and ``update.epochs x update.microbatches``.
    The checkpoint keeps the position in the prompt stream.

    Args:
        val_batch_size: prompts per evaluation batch and process.
        limit: evaluate only this many rows, from the first; None for all.
        rollouts_per_epoch: rollouts per epoch; None makes an epoch one pass over the training rows.
        tasks: bands to change or tasks to add, by name, each ``{"length": [minimum, low, high, maximum] or null,
            "entropy": [low, high] or null, "reward": import path or null, "in_process": whether the reward runs in the
            trainer's own process, "prompt_template": Jinja text or null}``; a length threshold is a number of tokens,
            ``1.2x`` (times the mean at the start of the run) or ``20+1.5ref`` (plus times the reference answer's).
        mixture: groups of each task per rollout, by quota, or by weight and number of rows; None deals the tasks in
            turn.
        image_errors: what to do with a row whose image cannot be used: stop, or take the next row of its task.
        max_failure_rate: share of training rows that may fail to open before the run stops, from 0 to 1.
        max_prompt_tokens: longest prompt, tokens, including images; prompts are never truncated.
        long_prompts: what to do with a longer one: stop, or take the next row of its task.
        max_completion_tokens: longest completion, tokens.

    Attributes:
        tasks: the tasks that rows may have, by name, with their bands.
        module: the module that uses the prompts, if no trainer provides it.
        done: rows that ``test`` or ``predict`` can skip, since an earlier run evaluated them.
    """

    def __init__(
        self,
        *,
        val_batch_size: int = 32,
        limit: int | None = None,
        rollouts_per_epoch: int | None = None,
        tasks: dict[str, dict[str, list[float | str] | bool | str | None] | None] | None = None,
        mixture: Mixture | None = None,
        image_errors: Literal["raise", "skip"] = "skip",
        max_failure_rate: float = 0.01,
        max_prompt_tokens: int = 16384,
        long_prompts: Literal["refuse", "skip"] = "refuse",
        max_completion_tokens: int = 4096,
    ) -> None:
        super().__init__()
        sizes = {"val_batch_size": val_batch_size, "limit": limit, "rollouts_per_epoch": rollouts_per_epoch}
        sizes |= {"max_prompt_tokens": max_prompt_tokens, "max_completion_tokens": max_completion_tokens}
        for key, size in sizes.items():
            if size is not None and size < 1:
                raise UserError(f"data.{key} is {size}; it must be 1 or more")
        if not 0 <= max_failure_rate <= 1:
            raise UserError(f"data.max_failure_rate is {max_failure_rate}; it must be from 0 to 1")
        self.val_batch_size = val_batch_size
        self.limit = limit
        self.done: frozenset[int] = frozenset()
        self.rollouts_per_epoch = rollouts_per_epoch
        self.mixture = mixture
        self.image_errors: Literal["raise", "skip"] = image_errors
        self.max_failure_rate = max_failure_rate
        self.max_prompt_tokens = max_prompt_tokens
        self.long_prompts: Literal["refuse", "skip"] = long_prompts
        self.max_completion_tokens = max_completion_tokens
        self.tasks: dict[str, Task] = with_bands(self.default_tasks(), {} if tasks is None else tasks)
        self.module: PromptUser | None = None
        self._loader: RolloutLoader | None = None
        self._state: dict[str, Any] = {}

    def default_tasks(self) -> dict[str, Task]:
        """Return the tasks before ``tasks`` changes them, by default the paper's six."""
        return paper_tasks()

    def train_dataset(self) -> PromptDataset:
        """Return the training rows."""
        raise UserError(f"{type(self).__name__} has no train_dataset; write it, or take JsonPrompts for files of rows")

    def val_dataset(self) -> PromptDataset | None:
        """Return the validation rows; None to train without validation."""
        raise UserError(f"{type(self).__name__} has no val_dataset; write it, and return None for no validation")

    def test_dataset(self) -> PromptDataset | None:
        """Return the rows of ``test``: the validation rows unless a subclass has others."""
        return self.val_dataset()

    def predict_dataset(self) -> PromptDataset | None:
        """Return the rows of ``predict``: the validation rows unless a subclass has others."""
        return self.val_dataset()

    def tasks_of(self, stage: str) -> dict[str, Task]:
        """Pick the tasks that have rows.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            UserError: if a row has an unknown task, or, in ``fit``, a task has settings but no rows.
        """
        datasets = {
            "fit": lambda: [self.train_dataset(), self.val_dataset()],
            "validate": lambda: [self.val_dataset()],
            "test": lambda: [self.test_dataset()],
            "predict": lambda: [self.predict_dataset()],
        }[stage]()
        for dataset in datasets:
            if dataset is not None and not hasattr(dataset, "task_names"):
                raise UserError(
                    f"a dataset of {type(self).__name__} is a {type(dataset).__name__}, which has no task_names(); "
                    "give an object with it, which returns the task of each row"
                )
        present = {task for dataset in datasets if dataset is not None for task in dataset.task_names()}
        if unknown := sorted(present - self.tasks.keys()):
            raise UserError(
                f"the data has rows of task {unknown[0]!r}, which is not known; known: {', '.join(self.tasks)}; "
                f"add it: data.tasks={{{unknown[0]!r}: {{}}}}, or return it in default_tasks()"
            )
        for name in sorted(self.tasks.keys() - self.default_tasks().keys() - present):
            near = difflib.get_close_matches(name, {*present, *self.tasks} - {name}, n=1)
            wrong = f"data.tasks.{name}: no row has this task; " + (
                f"did you mean {near[0]}?" if near else f"the rows have {', '.join(sorted(present))}"
            )
            if stage == "fit":
                raise UserError(wrong)
            # its rows may be in the training files
            rank_zero_warn(wrong)
        return {name: task for name, task in self.tasks.items() if name in present}

    def user(self) -> PromptUser:
        """Return the module that uses the prompts."""
        if self.module is not None:
            return self.module
        assert self.trainer is not None
        return cast(PromptUser, self.trainer.lightning_module)

    @override
    def setup(self, stage: str) -> None:
        # a mixture that does not fit the rows is refused before the policy is loaded
        if stage == "fit" and self.mixture is not None and self.trainer is not None:
            self.mixture.expected(Counter(self.train_dataset().task_names()), self.user().rollout.prompts)

    @override
    def train_dataloader(self) -> RolloutLoader:
        assert self.trainer is not None
        module, dataset = self.user(), self.train_dataset()
        if self.long_prompts == "refuse" and isinstance(dataset, Outlined):
            check_lengths(module.policy.processor, dataset, self.max_prompt_tokens)
        self._loader = RolloutLoader(
            dataset,
            prompts=module.rollout.prompts,
            microbatches=module.update.epochs * module.update.microbatches,
            rollouts_per_epoch=self.rollouts_per_epoch or max(len(dataset) // module.rollout.prompts, 1),
            seed=module.rollout.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            mixture=self.mixture,
            image_errors=self.image_errors,
            max_failure_rate=self.max_failure_rate,
            prepare=module.prepare_prompt,
            max_prompt_tokens=self.max_prompt_tokens,
            long_prompts=self.long_prompts,
        )
        if self._state:
            self._loader.load_state_dict(self._state)
        return self._loader

    @override
    def val_dataloader(self) -> ShardedBatches | list[Any]:
        return self._batches(self.val_dataset())

    @override
    def test_dataloader(self) -> ShardedBatches | list[Any]:
        return self._batches(self.test_dataset(), self.done)

    @override
    def predict_dataloader(self) -> ShardedBatches | list[Any]:
        return self._batches(self.predict_dataset(), self.done)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # a batch has no tensors, and Lightning's own transfer would copy every prompt
        return batch

    @override
    def state_dict(self) -> dict[str, Any]:
        # Lightning saves the loader's state too, but restores it only inside an unfinished epoch, and never if the
        # loader was built before the checkpoint was read.
        return dict(self._state) if self._loader is None else self._loader.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = dict(state_dict)
        if self._loader is not None:
            self._loader.load_state_dict(self._state)

    def _batches(self, dataset: PromptDataset | None, done: frozenset[int] = frozenset()) -> ShardedBatches | list[Any]:
        assert self.trainer is not None
        if dataset is None:
            return []
        return ShardedBatches(
            dataset,
            self.val_batch_size,
            self.trainer.global_rank,
            self.trainer.world_size,
            image_errors=self.image_errors,
            limit=self.limit,
            done=done,
            prepare=self.user().prepare_prompt,
            max_prompt_tokens=self.max_prompt_tokens,
        )


if TYPE_CHECKING:
    from lit_g2rpo.training.run import PromptSettings

    # what training needs from the datamodule
    _: type[PromptSettings] = PromptData
