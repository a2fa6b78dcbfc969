"""Tokens drawn so far, row by row."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.sampling import draw_with_stats, uniforms


class CompletionTable:
    """Completions of ``P`` prompts, ``N = P * G`` rows, and a spare row for writes of idle slots.

    Args:
        encoded: the same prompts as tensors.
        group_size: completions per prompt, ``G``.
        finished: called with each group as soon as its last row is done.
        known: groups drawn before, by the id of their prompt; nothing is drawn for them.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: list[Prompt],
        encoded: list[EncodedPrompt],
        group_size: int,
        sampling: Sampling,
        finished: Finished | None = None,
        known: Mapping[str, list[Completion]] | None = None,
    ) -> None:
        device = policy.device
        self.policy, self.sampling, self.group_size = policy, sampling, group_size
        self._finished = finished
        self._undone = [group_size] * len(prompts)
        self._groups: dict[int, list[Completion]] = {}
        self.prompt_of_row = [p for p in range(len(prompts)) for _ in range(group_size)]
        self.spare = len(self.prompt_of_row)
        uniform = np.stack([uniforms(sampling, prompt.id, g) for prompt in prompts for g in range(group_size)])
        self._uniform = torch.from_numpy(np.pad(uniform, ((0, 1), (0, 0)))).to(device)
        starts = [encoded[p].next_position for p in self.prompt_of_row]
        self.last_position = max(starts) + sampling.max_tokens
        self.start = torch.tensor([*starts, 0], device=device)
        shape = (self.spare + 1, sampling.max_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(shape, dtype=policy.empty.dtype, device=device)
        self._entropy = torch.zeros_like(self._logprobs)
        self._forbidden = torch.tensor(policy.forbidden_token_ids, device=device)
        self._ends = torch.tensor(policy.eos_token_ids, device=device)
        # By the index of the prompt.
        self.known = {p: known[prompt.id] for p, prompt in enumerate(prompts) if known and prompt.id in known}
        self._given = torch.zeros(self.spare + 1, dtype=torch.bool, device=device)
        for p, group in self.known.items():
            for row, completion in enumerate(group, p * group_size):
                self.tokens[row, : len(completion.token_ids)] = completion.token_ids.to(device)
                self._given[row] = True

    def draw(self, row: Tensor, index: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and record one token for each of ``n`` rows.

        Args:
            row: the rows, ``[n]`` long.
            index: index of the token in its completion, ``[n]`` long.
            logits: ``[n, V]``.

        Returns:
            The tokens, ``[n]`` long, and whether each is its completion's last, ``[n]`` bool.
        """
        at = index + row * self.sampling.max_tokens
        uniform = self._uniform.flatten().index_select(0, at)
        token, *stats = draw_with_stats(logits, uniform, self.sampling, self._forbidden)
        if self.known:
            token = torch.where(self._given[row], self.tokens.view(-1)[at], token)
        for table, drawn in zip((self.tokens, self._logprobs, self._entropy), (token, *stats), strict=True):
            table.view(-1).index_copy_(0, at, drawn)
        return token, self.ends(token, index)

    def ends(self, token: Tensor, index: Tensor) -> Tensor:
        """Return which tokens are their completions' last; arguments and result as in `draw`."""
        ended = (token[:, None] == self._ends).any(-1)
        return ended | (index == self.sampling.max_tokens - 1)

    def end(self, rows: list[int]) -> None:
        """Mark rows as done, and collect the groups that this completes.

        Args:
            rows: rows whose last token is drawn, each given once.
        """
        complete = []
        for row in rows:
            prompt = self.prompt_of_row[row]
            self._undone[prompt] -= 1
            if not self._undone[prompt]:
                complete.append(prompt)
        if not complete:
            return
        # Whole: on a device that compiles, a separate slice for each group would be a separate program.
        table = [tensor.cpu() for tensor in (self.tokens, self._logprobs, self._entropy, self._ends)]
        for prompt in sorted(complete):
            # These slices are used in training, which is impossible for tensors made in inference mode.
            with torch.inference_mode(False):
                self._groups[prompt] = self.known.get(prompt) or self._read(prompt, *table)
            if self._finished is not None:
                self._finished(prompt, self._groups[prompt])

    def completions(self) -> list[Completion]:
        """List the completions of all complete groups, on the CPU, in prompt order."""
        return [completion for prompt in sorted(self._groups) for completion in self._groups[prompt]]

    def _read(self, prompt: int, tokens: Tensor, logprobs: Tensor, entropy: Tensor, ends: Tensor) -> list[Completion]:
        """Cut each row of a group after its last token."""
        own = slice(prompt * self.group_size, (prompt + 1) * self.group_size)
        tokens, logprobs, entropy = tokens[own], logprobs[own], entropy[own]
        ended = torch.isin(tokens, ends)
        # After a completion's end the table has zeros, which may be an end token but never the first one.
        lengths = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, tokens.shape[1]).tolist()
        found = []
        for i, length in enumerate(lengths):
            ids = tokens[i, :length].clone()
            stats = logprobs[i, :length].clone(), entropy[i, :length].clone()
            found.append(Completion(ids, *stats, self.policy.decode(ids), truncated=not bool(ended[i, length - 1])))
        return found
