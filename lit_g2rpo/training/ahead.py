"""The next rollout, sampled in a thread while the policy learns from the current one, or read from a checkpoint."""

import threading
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.registry import one_line
from lit_g2rpo.rollout.sampling import prompt_key
from lit_g2rpo.training.draw import Draw
from lit_g2rpo.training.push_check import PushCheck
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.saved_completions import completions_state, read_completions

SHAPING = ("group_size", "temperature", "top_p", "top_k")
"""Rollout settings with which completions must have been sampled to be learned from."""


class SamplingStopError(RolloutStopError):
    """A rollout that could not be sampled."""


class Ahead:
    """The next rollout of this rank, being sampled with the weights of the moment; all ranks must make the same calls.

    Args:
        run: the run, before it learns from its current rollout.

    ``metrics`` are those of the push.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._max_tokens = run, run.cut.max_tokens
        self._draw = Draw(run, run.loader.ahead(), 0, run.rollout.prompts)
        self._error: Exception | None = None
        self.metrics: dict[str, float] = {}
        # a daemon, so that a run that is aborted need not wait for it
        self._thread = threading.Thread(target=self._sample, name="rollout", daemon=True)
        check = PushCheck(run, self._draw.prompts)
        with generation_context(run.trainer.strategy, run.policy):
            self._attempt(self._draw.begin)
            self._attempt(check.sample)
        if not self._reason():
            self._attempt(lambda: self.metrics.update(check.metrics()))
        if not self._reason():
            self._thread.start()

    def wait(self) -> None:
        """Wait until the rollout is sampled, and no other thread scores it.

        Raises:
            SamplingStopError: on every rank, if a rank could not sample its part.
        """
        if reason := self._settled():
            raise SamplingStopError(f"{self._draw.name} could not be sampled: {reason}") from self._error

    def take(self, run: Run, prompts: list[Prompt]) -> Draw:
        """Wait for the rollout, which becomes the current one; arguments are those of `SavedAhead.take`."""
        self.wait()
        return self._draw

    def state(self) -> dict[str, Any] | None:
        """Wait for the rollout, and write it as plain values; None if it could not be sampled."""
        if self._settled():
            return None
        run, draw = self._run, self._draw
        completions = completions_state(
            draw.prompts, draw.completions, run.rollout.prompts, self._max_tokens, run.ranks
        )
        return {"settings": _settings(run), "metrics": self.metrics, "completions": completions}

    def abandon(self) -> None:
        """Stop sampling once the next group is complete, and wait for that."""
        self._draw.abandoned = True
        if self._thread.is_alive():
            self._thread.join()
        self._draw.close()

    def _sample(self) -> None:
        self._attempt(self._draw.sample)

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do a part of the work, unless an earlier one failed; the run learns from its rollout before it stops."""
        if self._error is None:
            try:
                work()
            except Exception as error:  # raised again where the run waits
                self._error = error

    def _settled(self) -> str:
        """Wait, and return why a rank could not sample, the same on every rank; empty on success."""
        if self._thread.is_alive():
            with self._draw.step:
                self._thread.join()
        self._draw.settle()
        return self._reason()

    def _reason(self) -> str:
        error = self._error
        reason = "" if error is None else str(error) if isinstance(error, UserError) else one_line(error)
        return self._run.ranks.first_message(reason)


class SavedAhead:
    """The next rollout, as an earlier process sampled it.

    Args:
        state: as returned by ``Ahead.state``.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self.metrics: dict[str, float] = state["metrics"]

    def wait(self) -> None:
        """Do nothing, since it is sampled."""

    def take(self, run: Run, prompts: list[Prompt]) -> Draw | None:
        """Take the rollout over, to become the current one.

        Args:
            run: the run.
            prompts: this rank's prompts, from the data.

        Returns:
            The rollout; None if it does not fit the run's settings or data, so that it has to be sampled again.
        """
        rank, world = run.ranks.rank, run.ranks.count
        state, number = self._state["completions"], run.rollout_index + 1
        own = {name: tensor[rank::world] for name, tensor in state.items()}
        differ = [name for name, value in _settings(run).items() if self._state["settings"].get(name) != value]
        # over all ranks, since all must sample if one does
        fits = own["prompt_keys"].tolist() == [prompt_key(prompt.id) for prompt in prompts]
        if run.ranks.first_message("" if fits else "prompts"):
            differ.append("prompts")
        if differ:
            rank_zero_warn(
                f"rollout {number} was sampled ahead before, with other settings ({', '.join(differ)}); it is sampled "
                "again, with the newest weights"
            )
            return None
        draw = Draw(run, prompts, 0, run.rollout.prompts)
        draw.give(read_completions(own, own["lengths"], run.policy.decode))
        return draw

    def abandon(self) -> None:
        """Do nothing, since it is sampled."""

    def state(self) -> dict[str, Any]:
        """Return the state, for a checkpoint that is written before the rollout is used."""
        return self._state


def sample_ahead(run: Run) -> Ahead | None:
    """Begin to sample the next rollout, unless the run does not sample ahead or ends with its current rollout."""
    last = run.trainer.global_step + run.steps_per_rollout
    if not run.rollout.lag or 0 <= run.trainer.max_steps <= last:
        return None
    return Ahead(run)


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings with which completions must have been sampled."""
    return {name: getattr(run.rollout, name) for name in SHAPING} | {
        "lag": run.rollout.lag,
        "max_completion_tokens": run.cut.max_tokens,
    }
