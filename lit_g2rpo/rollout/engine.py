"""The base of every rollout engine."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy

Finished = Callable[[int, list[Completion]], None]
"""Told of a whole group: index of its prompt, and its completions in their order."""


@dataclass(slots=True, frozen=True)
class Sampling:
    """How completions are drawn, and the counters their randomness follows from.

    Args:
        max_tokens: longest completion, tokens.
        temperature: softmax temperature; 0 is greedy.
        top_p: nucleus mass, 1 for all.
        top_k: number of most likely tokens kept, 0 for all.
        seed: the run's seed.
        rollout: index of the rollout in the run.
        wave: which draw for the same prompts within the rollout.
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

    An argument of its own class that is called like a key of `RolloutConfig` gets its value, any other is one of
    ``engine_options``.
    """

    samples: ClassVar[bool] = True
    """False if completions are given, so that nothing can be learned from comparing them."""

    fixed_shapes: ClassVar[bool] = False
    """True if it also runs where a device compiles for each shape."""

    known: Mapping[str, list[Completion]] = MappingProxyType({})
    """Groups by the id of their prompt that the next `generate` would sample again, as they were sampled before.

    Its result is the same with them and without. They are there to save time: an engine may leave them out where that
    does not change how the others are rounded, which goes by the shapes of batches.
    """

    policy: Policy

    def attach(self, policy: Policy) -> None:
        """Bind the policy whose live weights are sampled from."""
        self.policy = policy

    @abstractmethod
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        """Sample ``group_size`` completions for each prompt.

        Args:
            prompts: the prompts, ``P`` of them.
            finished: called once for each group, in any order, as soon as the engine has it; it returns at once.

        Returns:
            ``P * group_size`` completions, prompt by prompt.

        Raises:
            UserError: if the engine cannot sample from this policy, or for one of the prompts.
        """


def announce(completions: list[Completion], group_size: int, finished: Finished | None, told: int = 0) -> None:
    """Tell of all whole groups, prompt by prompt, for engines that have many at a time.

    Args:
        completions: those of the first prompts.
        told: groups that were told of before.
    """
    if finished is not None:
        for i in range(told, len(completions) // group_size):
            finished(i, completions[i * group_size : (i + 1) * group_size])
