"""Tokens drawn so far, row by row."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.hardware.transfer import send
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
        self._uniform = send(torch.from_numpy(np.pad(uniform, ((0, 1), (0, 0)))), device)
        starts = [encoded[p].next_position for p in self.prompt_of_row]
        self.last_position = max(starts) + sampling.max_tokens
        self.start = send(torch.tensor([*starts, 0]), device)
        shape = (self.spare + 1, sampling.max_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(shape, dtype=policy.empty.dtype, device=device)
        self._entropy = torch.zeros_like(self._logprobs)
        self._forbidden = send(torch.tensor(policy.forbidden_token_ids), device)
        self._host_ends = torch.tensor(policy.eos_token_ids)
        self._ends = send(self._host_ends, device)
        # By the index of the prompt.
        self.known = {p: known[prompt.id] for p, prompt in enumerate(prompts) if known and prompt.id in known}
        self._given = torch.zeros(self.spare + 1, dtype=torch.bool, device=device)
        for p, group in self.known.items():
            self._given[p * group_size : (p + 1) * group_size] = True
            for row, completion in enumerate(group, p * group_size):
                self.tokens[row, : len(completion.token_ids)] = send(completion.token_ids, device)

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
        complete.sort()
        tables = self._on_host(complete)
        for prompt, *table in zip(complete, *tables, strict=True):
            # These slices are used in training, which is impossible for tensors made in inference mode.
            with torch.inference_mode(False):
                self._groups[prompt] = self.known.get(prompt) or self._read(*table)
            if self._finished is not None:
                self._finished(prompt, self._groups[prompt])

    def completions(self) -> list[Completion]:
        """List the completions of all complete groups, on the CPU, in prompt order."""
        return [completion for prompt in sorted(self._groups) for completion in self._groups[prompt]]

    def _on_host(self, prompts: list[int]) -> list[list[Tensor]]:
        """Copy tokens, log-probabilities and entropies of groups to the host, ``[G, T]`` for each prompt."""
        rows = [slice(prompt * self.group_size, (prompt + 1) * self.group_size) for prompt in prompts]
        tables = [self.tokens, self._logprobs, self._entropy]
        if self.policy.static:
            # Whole: on a device that compiles, a separate slice for each group would be a separate program.
            return [[table[own] for own in rows] for table in [tensor.cpu() for tensor in tables]]
        # One copy of all, for which the host waits once; float64 holds every value of theirs.
        copied = torch.stack([torch.cat([table[own] for own in rows]).double() for table in tables]).cpu()
        found = [values.to(table.dtype) for values, table in zip(copied, tables, strict=True)]
        return [list(values.split(self.group_size)) for values in found]

    def _read(self, tokens: Tensor, logprobs: Tensor, entropy: Tensor) -> list[Completion]:
        """Cut each row of a group, ``[G, T]`` each, after its last token."""
        ended = torch.isin(tokens, self._host_ends)
        # After a completion's end the table has zeros, which may be an end token but never the first one.
        lengths = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, tokens.shape[1]).tolist()
        found = []
        for i, length in enumerate(lengths):
            ids = tokens[i, :length].clone()
            stats = logprobs[i, :length].clone(), entropy[i, :length].clone()
            found.append(Completion(ids, *stats, self.policy.decode(ids), truncated=not bool(ended[i, length - 1])))
        return found
