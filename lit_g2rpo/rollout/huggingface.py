"""The reference engine: Hugging Face ``generate``, always correct, on every architecture."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from typing_extensions import override

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.encoding import collate
from lit_g2rpo.policy.head.token_stats import logits_stats
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce
from lit_g2rpo.rollout.sampling import draw, uniforms


class _OwnDraw(LogitsProcessor):
    """Draw the token here, from one uniform per row and step, and leave ``generate`` no other choice."""

    def __init__(self, sampling: Sampling, uniform: Tensor, forbidden: Tensor) -> None:
        self.sampling, self.uniform, self.forbidden = sampling, uniform, forbidden
        self.logprobs: list[Tensor] = []
        self.entropy: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logits = scores.float()
        tokens = draw(logits, self.uniform[:, len(self.logprobs)], self.sampling, self.forbidden)
        logprobs, entropy = logits_stats(logits / (self.sampling.temperature or 1.0), tokens)
        self.logprobs.append(logprobs)
        self.entropy.append(entropy)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0)


class HuggingFaceEngine(RolloutEngine):
    """Sample with ``generate`` on the policy's live weights.

    Args:
        max_rows: most rows held at a time.
    """

    def __init__(self, max_rows: int = 512) -> None:
        self.max_rows = max_rows

    @override
    @torch.no_grad()
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        rows = [(prompt, g) for prompt in prompts for g in range(group_size)]
        training = self.policy.training
        self.policy.eval()
        try:
            completions: list[Completion] = []
            for start in range(0, len(rows), self.max_rows):
                own, told = rows[start : start + self.max_rows], len(completions) // group_size
                # Sampling only some of the rows would change rounding.
                if all(prompt.id in self.known for prompt, _ in own):
                    completions += [self.known[prompt.id][g] for prompt, g in own]
                else:
                    completions += self._generate(own, sampling)
                announce(completions, group_size, finished, told)
            return completions
        finally:
            self.policy.train(training)

    def _generate(self, rows: list[tuple[Prompt, int]], sampling: Sampling) -> list[Completion]:
        policy, device = self.policy, self.policy.device
        encoded = [policy.encode(prompt) for prompt, _ in rows]
        empty = torch.empty(0, dtype=torch.long)
        batch = collate(encoded, [empty] * len(rows), policy.pad_token_id, side="left")
        uniform = np.stack([uniforms(sampling, prompt.id, g) for prompt, g in rows])
        drawing = _OwnDraw(
            sampling,
            torch.from_numpy(uniform).to(device),
            torch.tensor(policy.forbidden_token_ids, device=device),
        )
        policy.backbone.family.forget_batch(policy.base)
        sequences = policy.model.generate(
            **{name: tensor.to(device) for name, tensor in batch.items()},
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                # A checkpoint's own penalty would apply before the draw, and the trainer does not know about it.
                repetition_penalty=1.0,
                eos_token_id=policy.eos_token_ids,
                pad_token_id=policy.pad_token_id,
            ),
            logits_processor=LogitsProcessorList([drawing]),
        )
        tokens = sequences[:, batch["input_ids"].shape[1] :].cpu()
        logprobs = torch.stack(drawing.logprobs, 1).cpu()
        entropy = torch.stack(drawing.entropy, 1).cpu()
        ended = torch.isin(tokens, torch.tensor(policy.eos_token_ids))
        completions = []
        for i in range(len(rows)):
            ends = ended[i].nonzero()
            length = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
            ids = tokens[i, :length].clone()
            own = logprobs[i, :length].clone(), entropy[i, :length].clone()
            completions.append(Completion(ids, *own, policy.decode(ids), truncated=len(ends) == 0))
        return completions
