"""The engine of supervised training: completions are read from the data."""

from typing import ClassVar

import torch
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce


class DemonstrationEngine(RolloutEngine):
    """Return each prompt's demonstration as its completions, including the end token.

    Only the length limit of the sampling is used; log-probabilities and entropy are 0 because nothing is sampled.
    """

    samples: ClassVar[bool] = False
    fixed_shapes: ClassVar[bool] = True

    @override
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        completions = []
        for prompt in prompts:
            if prompt.demonstration is None or not prompt.demonstration.strip():
                raise UserError(f"row {prompt.id} has no demonstration; supervised training needs one in every row")
            text = self.policy.left_to_write(prompt.demonstration)
            ids = self.policy.processor.tokenizer.encode(text, add_special_tokens=False)
            token_ids = torch.tensor([*ids, self.policy.eos_token_ids[0]])
            if len(token_ids) > sampling.max_tokens:
                raise UserError(
                    f"row {prompt.id}: its demonstration has {len(token_ids)} tokens; "
                    f"data.max_completion_tokens allows {sampling.max_tokens}"
                )
            zeros = torch.zeros(len(token_ids))
            completions += [Completion(token_ids, zeros, zeros, prompt.demonstration, False) for _ in range(group_size)]
        announce(completions, group_size, finished)
        return completions
