"""The base of every rollout engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy

Finished = Callable[[int, list[Completion]], None]
"""Called with a complete group: the index of its prompt, and its completions in order."""


@dataclass(slots=True, frozen=True)
class Pushed:
    """What it cost to bring an engine's copy of the weights up to date.

    Args:
        seconds: wall-clock time, 0 if the copy was current.
        size: bytes handed over.
    """

    seconds: float = 0.0
    size: int = 0


@dataclass(slots=True, frozen=True)
class Sampling:
    """Parameters of sampling, and the counters that determine its randomness.

    Args:
        max_tokens: longest completion, tokens.
        temperature: softmax temperature; 0 is greedy.
        top_p: nucleus mass, 1 for all.
        top_k: number of most likely tokens kept, 0 for all.
        seed: the run's seed.
        rollout: index of the rollout in the run.
        wave: index of the draw for the same prompts within the rollout.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    rollout: int = 0
    wave: int = 0


class RolloutEngine(ABC):
    """Sample completions from the policy it is attached to.

    An argument of a subclass with the name of a key of `RolloutConfig` gets that value; any other comes from
    ``engine_options``.
    """

    samples: ClassVar[bool] = True
    """False if completions are given, so that comparing them teaches nothing."""

    fixed_shapes: ClassVar[bool] = False
    """True if it also runs on devices that compile for each shape."""

    separate: ClassVar[bool] = False
    """True if it samples from a copy of the weights that only `push` changes, and may do so in another thread while the
    policy learns; `generate` then reads no weights of the policy."""

    gap_causes: ClassVar[str] = "another precision, other kernels, another temperature or stale weights"
    """What to look for if log-probabilities differ from the trainer's."""

    known: Mapping[str, list[Completion]] = MappingProxyType({})
    """Groups sampled before, by the id of their prompt, that the next `generate` would sample identically.

    They only save time and never change the result: an engine may skip sampling them if that does not change the
    rounding of the others, which depends on batch shapes.
    """

    pushed: Pushed | None = None
    """Cost of the push before the newest `generate`; None for an engine that samples from the live weights."""

    policy: Policy

    def attach(self, policy: Policy) -> None:
        """Bind the policy to sample from; an engine with a copy of the weights assumes that all have changed.

        Called again when a checkpoint replaces the weights; afterwards `Policy.version` tells when they change.
        """
        self.policy = policy

    def push(self) -> None:  # noqa: B027  # most engines have no copy
        """Bring the engine's copy of the weights up to date, if it has one; call this on gathered weights.

        It is called before every `generate`, from the thread in which the policy learns.
        """

    def check(self) -> None:  # noqa: B027  # most engines need nothing
        """Refuse a machine or environment on which it cannot sample; called before the policy is loaded.

        Raises:
            UserError: if something is missing, or of a version that does not work.
        """

    def rest(self) -> None:  # noqa: B027  # most engines hold nothing
        """Release what is only needed while sampling; called after each rollout and each evaluation."""

    @abstractmethod
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        """Sample ``group_size`` completions for each prompt.

        Args:
            prompts: the prompts, ``P`` of them.
            finished: called once per group, in any order, as soon as the group is complete; returns immediately.

        Returns:
            ``P * group_size`` completions, prompt by prompt.

        Raises:
            UserError: if the engine cannot sample from this policy, or for one of the prompts.
        """


def announce(completions: list[Completion], group_size: int, finished: Finished | None, told: int = 0) -> None:
    """Report all complete groups in prompt order, for engines that finish many at a time.

    Args:
        completions: completions of the first prompts.
        told: number of groups reported before.
    """
    if finished is not None:
        for i in range(told, len(completions) // group_size):
            finished(i, completions[i * group_size : (i + 1) * group_size])
