"""An engine with its own copy of the weights, as servers have, for runs that sample one rollout ahead."""

import copy
import threading
import time
from typing import Any, ClassVar

import torch

from lit_g2rpo.experience import Completion
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

HANG_SECONDS = 120.0


class SeparateEngine(NativeEngine):
    """Sample natively from a copy of the policy, and record what happened.

    Args:
        fail_at: index of the rollout that cannot be sampled; None for none.
        seconds: time that a rollout takes at least.

    ``log`` lists the events of rollouts, ``(event, rollout)``, in order; a rollout waits for its event in ``gates``.
    """

    separate: ClassVar[bool] = True

    def __init__(
        self,
        max_rows: int = 512,
        slots: int | None = None,
        prefill_mib: float = 1024,
        fail_at: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(max_rows, slots, prefill_mib)
        self.fail_at, self.seconds = fail_at, seconds
        self.log: list[tuple[str, int]] = []
        self.gates: dict[int, threading.Event] = {}

    def attach(self, policy: Policy) -> None:
        self.live, self.policy = policy, copy.deepcopy(policy)

    def push(self) -> None:
        with torch.no_grad():
            for own, weight in zip(self.policy.parameters(), self.live.parameters(), strict=True):
                own.copy_(weight)

    def generate(
        self, prompts: Any, group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        if finished is None:
            # not a rollout
            return super().generate(prompts, group_size, sampling)
        self.log.append(("begin", sampling.rollout))
        gate = self.gates.get(sampling.rollout)
        if gate is not None and not gate.wait(HANG_SECONDS):
            raise TimeoutError(f"rollout {sampling.rollout} was never let through")
        time.sleep(self.seconds)
        if sampling.rollout == self.fail_at:
            raise ConnectionError("the server has gone")
        completions = super().generate(prompts, group_size, sampling, finished)
        self.log.append(("end", sampling.rollout))
        return completions
