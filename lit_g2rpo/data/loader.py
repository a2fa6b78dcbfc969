"""The training loader: it yields each rollout's prompts once per micro-batch."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from lit_g2rpo.data.lengths import LongPrompt, check_prompt
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.data.order.mixture import Mixture
from lit_g2rpo.data.order.sampler import TaskMixtureSampler, copies
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

log = logging.getLogger(__name__)

DRAWN_BEFORE_ABORT = 100


class PromptDataset(Protocol):
    """Rows that can be opened as prompts; opening may raise ``ImageError``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Prompt: ...

    def task_names(self) -> Sequence[str]:
        """Return the task of each row."""
        ...


def opened(dataset: PromptDataset, row: int) -> Prompt:
    """Open a row as a prompt.

    Raises:
        UserError: if the dataset returns something else.
    """
    prompt = dataset[row]
    if not isinstance(prompt, Prompt):
        kind = type(prompt).__name__
        raise UserError(f"row {row} of {type(dataset).__name__} is a {kind}; give a lit_g2rpo.Prompt")
    return prompt


class Loaded(NamedTuple):
    """The opened prompts of a rollout, and a message for each row that was left out."""

    position: int
    prompts: list[Prompt]
    failures: list[str]
    too_long: list[str]


class RolloutLoader:
    """Yield ``(prompts, k)`` for ``k`` in ``range(microbatches)``, then the next rollout's prompts.

    Each iteration yields ``len(self)`` batches starting at the saved position, so a state saved at any batch, even the
    last of an epoch, resumes exactly. While a rollout is in use, a thread opens and prepares the prompts of the next
    one. If the image of a row cannot be used, or its prompt is too long, either the run stops, or the next usable row
    of its task replaces it, so that every rank keeps its number of prompts.

    Args:
        prompts: prompts per rollout, over all ranks.
        rollouts_per_epoch: rollouts per iteration.
        seed: seed of the prompt order.
        mixture: shares of the tasks; None deals the tasks in turn.
        image_errors: what to do with a row whose image cannot be used.
        max_failure_rate: share of rows that may fail to open before the run stops, from 0 to 1.
        prepare: called with each opened prompt, in the thread; fills its ``encoded``.
        max_prompt_tokens: longest prepared prompt, tokens, including images; None for no limit.
        long_prompts: what to do with a longer one.

    Attributes:
        drawn: rows that this rank has opened so far, or tried to.
        failures: rows that failed to open.
        too_long: rows whose prompt was too long.

    Raises:
        UserError: if the sizes are inconsistent, or, while iterating, if too many rows fail.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        *,
        prompts: int,
        microbatches: int,
        rollouts_per_epoch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        mixture: Mixture | None = None,
        image_errors: Literal["raise", "skip"] = "skip",
        max_failure_rate: float = 0.01,
        prepare: Callable[[Prompt], None] | None = None,
        max_prompt_tokens: int | None = None,
        long_prompts: Literal["refuse", "skip"] = "refuse",
    ) -> None:
        sizes = {
            "rollout.prompts": prompts,
            "micro-batches": microbatches,
            "data.rollouts_per_epoch": rollouts_per_epoch,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name} is {size}; it must be at least 1")
        if prompts < world_size:
            raise UserError(f"rollout.prompts is {prompts}; give at least {world_size}, a prompt for each rank")
        self.dataset = dataset
        self._task_names = dataset.task_names()
        self.sampler = TaskMixtureSampler(
            self._task_names, seed, prompts=prompts, mixture=mixture, rank=rank, world_size=world_size
        )
        self.microbatches, self.rollouts_per_epoch = microbatches, rollouts_per_epoch
        self.rank, self.world_size = rank, world_size
        self.image_errors, self.max_failure_rate = image_errors, max_failure_rate
        self.prepare, self.max_prompt_tokens, self.long_prompts = prepare, max_prompt_tokens, long_prompts
        self.drawn = self.failures = self.too_long = 0
        self._microbatch = 0
        self.before: dict[str, Any] = self.state_dict()
        self._current: Loaded | None = None
        self._ahead: tuple[int, Future[Loaded]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self.rollouts_per_epoch * self.microbatches

    def __iter__(self) -> Iterator[tuple[list[Prompt], int]]:
        for _ in range(len(self)):
            self.before = self.state_dict()
            prompts, k = self._rollout(), self._microbatch
            self._microbatch = (k + 1) % self.microbatches
            if self._microbatch == 0:
                self.sampler.advance()
            yield prompts, k

    def ahead(self) -> list[Prompt]:
        """Return this rank's prompts of the next rollout, as soon as they are open."""
        assert self._ahead is not None, "a rollout is in use"
        return self._ahead[1].result().prompts

    def refill(self, tasks: Sequence[str], own: Sequence[int]) -> list[Prompt]:
        """Draw more prompts of this rank for the current rollout, in place of groups to be replaced.

        Args:
            tasks: task of each prompt to draw, over all ranks and the same on every rank.
            own: indices of this rank's prompts among them.
        """
        loaded = self._refill(tasks, own)
        self._count(loaded)
        return loaded.prompts

    def refill_again(self, waves: Sequence[tuple[Sequence[str], Sequence[int]]]) -> list[list[Prompt]]:
        """Redraw the prompts of all refills of the current rollout, when it resumes partially trained.

        Args:
            waves: arguments of each call of ``refill``, wave by wave.
        """
        self.sampler.forget_refills()
        return [self._refill(tasks, own).prompts for tasks, own in waves]

    def _refill(self, tasks: Sequence[str], own: Sequence[int]) -> Loaded:
        rows = self.sampler.refill(tasks)
        again = copies(rows)
        return self._load(self.sampler.position, [rows[i] for i in own], [again[i] for i in own])

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the next batch, and the counts."""
        return {
            **self.sampler.state_dict(),
            "microbatch": self._microbatch,
            "microbatches": self.microbatches,
            "drawn": self.drawn,
            "failures": self.failures,
            "too_long": self.too_long,
        }

    def rewind(self) -> None:
        """Go back to before the newest batch, from which nothing was learned."""
        self.load_state_dict(self.before)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that ``state_dict`` returned.

        Raises:
            UserError: if the state is inside a rollout with a different number of micro-batches.
        """
        if state["microbatch"] and state["microbatches"] != self.microbatches:
            raise UserError(
                f"the checkpoint was saved within a rollout of {state['microbatches']} micro-batches, but "
                f"update.epochs x update.microbatches is {self.microbatches}; resume with the same number"
            )
        self.sampler.load_state_dict(state)
        self._microbatch = state["microbatch"]
        self.drawn, self.failures, self.too_long = state["drawn"], state["failures"], state["too_long"]
        self._current = self._ahead = None

    def _rollout(self) -> list[Prompt]:
        position = self.sampler.position
        if self._current is None or self._current.position != position:
            # release the last rollout's images before waiting for the next ones
            self._current = None
            if self._ahead is not None and self._ahead[0] == position:
                self._current = self._ahead[1].result()
            else:
                self._current = self._load(position, self.sampler.rows(), self.sampler.copies())
            if self._microbatch == 0:
                self._count(self._current)
            self._look_ahead(position + self.sampler.prompts)
        return self._current.prompts

    def _look_ahead(self, position: int) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        rows, again = self.sampler.rows_ahead(), self.sampler.copies_ahead()
        self._ahead = (position, self._thread.submit(self._load, position, rows, again))

    def _load(self, position: int, rows: list[int], again: list[int]) -> Loaded:
        loaded = Loaded(position, [], [], [])
        for row, copy in zip(rows, again, strict=True):
            prompt = self._open(row, loaded)
            # completions are seeded by the id, so two groups of one prompt would be identical
            loaded.prompts.append(replace(prompt, id=f"{prompt.id}#{copy + 1}") if copy else prompt)
        return loaded

    def _open(self, row: int, loaded: Loaded) -> Prompt:
        task = self._task_names[row]
        reason = ""
        for candidate in (row, *self.sampler.stream.following(row, task)):
            try:
                return self._prepared(candidate)
            except ImageError as error:
                if self.image_errors == "raise":
                    raise
                loaded.failures.append(reason := str(error))
            except LongPrompt as error:
                if self.long_prompts == "refuse":
                    raise
                loaded.too_long.append(reason := str(error))
        raise UserError(f"no row of task {task} can be used; the last reason: {reason}")

    def _prepared(self, row: int) -> Prompt:
        prompt = opened(self.dataset, row)
        if prompt.task != (said := self._task_names[row]):
            raise UserError(
                f"row {row} of {type(self.dataset).__name__} has task {prompt.task!r}, but its task_names() says "
                f"{said!r}; give both the same"
            )
        if self.prepare is not None:
            self.prepare(prompt)
        check_prompt(prompt, self.max_prompt_tokens)
        return prompt

    def _count(self, loaded: Loaded) -> None:
        for message in loaded.failures + loaded.too_long:
            log.warning("row replaced: %s", message)
        self.drawn += len(loaded.prompts) + len(loaded.failures) + len(loaded.too_long)
        self.failures += len(loaded.failures)
        self.too_long += len(loaded.too_long)
        if self.drawn >= DRAWN_BEFORE_ABORT and self.failures > self.max_failure_rate * self.drawn:
            raise UserError(
                f"{self.failures} of {self.drawn} rows failed to open, more than data.max_failure_rate "
                f"{self.max_failure_rate}; the last one: {loaded.failures[-1] if loaded.failures else 'see above'}"
            )


if TYPE_CHECKING:
    from lit_g2rpo.training.run import PromptLoader

    # what training needs from the loader
    _: type[PromptLoader] = RolloutLoader
