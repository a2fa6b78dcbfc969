"""The engine of supervised training: completions are read from the data."""

import torch

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling, announce


class DemonstrationEngine:
    """Return each prompt's demonstration as its completions."""

    def __init__(self) -> None:
        self.policy: Policy

    def attach(self, policy: Policy) -> None:
        """Bind the policy whose tokenizer the demonstrations are cut with."""
        self.policy = policy

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        """Read the demonstration of each prompt, end token included.

        Args:
            prompts: the prompts, ``P`` of them.
            group_size: completions per prompt (the same demonstration).
            sampling: only the length limit is read.
            finished: told of each group, when all are read.

        Returns:
            ``P * group_size`` completions; log-probabilities and entropy are 0, for nothing was sampled.

        Raises:
            UserError: if a prompt has no demonstration or its demonstration is too long.
        """
        completions = []
        for prompt in prompts:
            if prompt.demonstration is None:
                raise UserError(f"row {prompt.id} has no demonstration; supervised training needs one in every row")
            ids = self.policy.processor.tokenizer.encode(prompt.demonstration, add_special_tokens=False)
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
