"""Engines with one silent fault each, as an engine with weights of its own can have them."""

import copy
import dataclasses
from typing import ClassVar

from torch import nn

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine


class CopyEngine(NativeEngine):
    """The native engine on a copy of the weights, which gets the trained ones before each rollout."""

    fault: ClassVar[str] = ""
    """Which weights stay as they were: a part of their names."""

    def attach(self, policy: Policy) -> None:
        self.trained = policy
        own = copy.deepcopy(policy).requires_grad_(False)
        # a tied head becomes a weight of its own, as an engine may have it
        own.base.lm_head.weight = nn.Parameter(own.base.lm_head.weight.clone(), requires_grad=False)
        super().attach(own)

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        new = self.trained.state_dict()
        for name, weight in self.policy.state_dict().items():
            if not (self.fault and self.fault in name):
                weight.copy_(new[name])
        own = [dataclasses.replace(prompt, encoded=self.encode(prompt)) for prompt in prompts]
        return super().generate(own, group_size, self.sampling(sampling), finished)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        return dataclasses.replace(self.trained.encode(prompt), features=None)

    def sampling(self, sampling: Sampling) -> Sampling:
        return sampling


class StaleWeights(CopyEngine):
    """No push arrives."""

    fault = "."


class StaleHead(CopyEngine):
    """The head of a tied policy is pushed under the embedding's name alone."""

    fault = "lm_head"


class StaleImages(CopyEngine):
    """Image features stay those of the tower before the update."""

    fault = "visual"


class NormalizedTwice(CopyEngine):
    """Pixels are normalized once more; mean and deviation are 0.5."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        encoded = super().encode(prompt)
        pixels = encoded.pixel_values
        return encoded if pixels is None else dataclasses.replace(encoded, pixel_values=(pixels - 0.5) / 0.5)


class OtherTemperature(CopyEngine):
    """Log-probabilities, and here also tokens, are those of temperature 1."""

    def sampling(self, sampling: Sampling) -> Sampling:
        return dataclasses.replace(sampling, temperature=1.0)
