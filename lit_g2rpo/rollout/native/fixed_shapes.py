"""Prefill and decoding in a few fixed shapes, for devices that compile for each shape.

A completion starts by reading its prompt's last token: the prompt's cache ends before it, so the first draw is a step
like any other.
"""

from collections import deque

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.hooks import end_graph
from lit_g2rpo.policy.batching import packs
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.fixed_shapes.buckets import bucket, padded
from lit_g2rpo.policy.fixed_shapes.forward import group_mask, image_rows
from lit_g2rpo.policy.forward.packing import pack
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.attention import LayerCache, grid_of_heads, shared_attention
from lit_g2rpo.rollout.native.decoder import Decoder
from lit_g2rpo.rollout.native.table import CompletionTable

CHECK_EVERY = 8
"""Steps between checks for finished rows, each of which makes the host wait for the device."""

PREFILL_TOKENS = 2048
"""Prompt tokens read at a time, since they attend through a dense mask. A longer prompt is read alone."""


class StaticRollout:
    """One rollout of ``P`` prompts, whose ``N = P * G`` rows take turns in ``S`` slots.

    Args:
        group_size: completions per prompt, ``G``.
        slots: rows decoded at a time.
        finished: called with each group as soon as its last row is done.
    """

    def __init__(
        self,
        policy: Policy,
        decoder: Decoder,
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        slots: int,
        finished: Finished | None = None,
    ) -> None:
        self.policy, self.decoder, self.device = policy, decoder, policy.device
        self.count, self.group_size = len(prompts), group_size
        # Copies of the last prompt fill the bucket; nothing is drawn for them.
        prompts = prompts + [prompts[-1]] * (bucket(len(prompts), 1) - len(prompts))
        self.encoded = [policy.encode(prompt) for prompt in prompts]
        self.table = CompletionTable(policy, prompts, self.encoded, group_size, sampling, finished)
        self.last_token = [int(self.encoded[p].input_ids[-1]) for p in self.table.prompt_of_row] + [0]
        self.width = sampling.max_tokens
        longest = max(len(prompt.input_ids) for prompt in self.encoded) - 1
        self.prompts = LayerCache(decoder, len(prompts), bucket(longest))
        self.own = LayerCache(decoder, slots, self.width)
        # On the host: the row in each slot, len(table) for a free slot.
        self.rows = [self.table.spare] * slots
        self.row = torch.tensor(self.rows, device=self.device)
        self.token, self.index = torch.zeros_like(self.row), torch.zeros_like(self.row)
        self.done = torch.ones_like(self.row, dtype=torch.bool)
        self.grid: Tensor
        self.place: Tensor
        positions = torch.arange(bucket(self.table.last_position), device=self.device)
        self.rotation = decoder.rotation(positions.expand(3, -1))
        self.start = self.table.start.clamp(min=1) - 1
        self._heads = torch.arange(decoder.key_heads, device=self.device)
        self._offset = torch.arange(slots * decoder.key_heads, device=self.device).view(slots, -1) * self.width
        self._steps = torch.arange(self.width, device=self.device)

    def prefill(self) -> None:
        """Read all prompts except their last tokens."""
        lengths = torch.tensor([len(prompt.input_ids) - 1 for prompt in self.encoded], device=self.device)
        keys = self.prompts.keys[0]
        outside = torch.arange(keys.shape[1], device=self.device) >= lengths[:, None]
        # Finite: a one-token prompt has no key here, and an empty softmax is NaN.
        low = torch.finfo(torch.float32).min / 2
        bias = torch.zeros(outside.shape, dtype=self.decoder.score_dtype, device=self.device).masked_fill(outside, low)
        self.prompts.bias = bias.repeat_interleave(len(self._heads), 0)[:, None]
        end_graph(self.device)
        first = 0
        for prompts in packs(self.encoded[: self.count], lambda prompt: len(prompt.input_ids), PREFILL_TOKENS):
            self._read(first, prompts)
            first += len(prompts)
            end_graph(self.device)

    def _read(self, first: int, prompts: list[EncodedPrompt]) -> None:
        """Read a pack as one sequence, and store each prompt's keys and values in its row."""
        # `pack` places nothing for a completion of one token.
        packed = pack(prompts, [prompt.input_ids[-1:] for prompt in prompts])
        size, count = bucket(len(packed.input_ids)), len(self.encoded)
        width = self.prompts.keys[0].shape[1]
        found, mine = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, dtype=torch.bool)
        # A repeated prompt is read once.
        spans = dict(zip(map(id, packed.prompts), packed.spans, strict=True))
        for i, prompt in enumerate(prompts, first):
            span = spans[id(prompt)]
            found[i, : span.prompt - 1] = span.start + torch.arange(span.prompt - 1)
            mine[i] = True
        found, mine = found.flatten().to(self.device), mine.repeat_interleave(len(self._heads))[:, None, None]
        mine = mine.to(self.device)
        mask = group_mask(packed, size, self.device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            for cached, fresh in ((self.prompts.keys, key), (self.prompts.values, value)):
                rows = fresh.index_select(0, found).view(count, width, *fresh.shape[1:]).transpose(1, 2)
                cached[layer] = torch.where(mine, rows.flatten(0, 1), cached[layer])
            q, k, v = query.permute(2, 1, 0, 3), key.transpose(0, 1), value.transpose(0, 1)
            k, v = (tensor.expand(len(q), -1, -1, -1) for tensor in (k, v))
            return scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 1, 0, 3).flatten(1)

        images = image_rows(self.policy.backbone, packed, size)
        ids = padded(packed.input_ids, size, self.policy.pad_token_id).to(self.device)
        x = images.embedded(embedding(ids, self.decoder.embedding))
        positions = padded(packed.positions, size).to(self.device)
        self.decoder(x, self.decoder.rotation(positions), attend, (None, images.added))
        self.policy.backbone.counters.prefill_tokens += size

    def decode(self) -> None:
        """Decode all rows; waiting rows take the slots of finished ones."""
        waiting = deque(range(self.count * self.group_size))
        while True:
            done = self.done.tolist()
            ended = [row for row, flag in zip(self.rows, done, strict=True) if flag and row != self.table.spare]
            self.table.end(ended)
            if waiting or not all(done):
                self._fill([slot for slot, flag in enumerate(done) if flag], waiting)
                end_graph(self.device)
            else:
                return
            # A freed slot may have longer leftovers, but nothing reads them.
            longest = max(0 if free else index for free, index in zip(done, self.index.tolist(), strict=True))
            span = _rounded(min(longest + CHECK_EVERY, self.width), self.width)
            for _ in range(CHECK_EVERY):
                self._step(span)
                end_graph(self.device)
            self.policy.backbone.counters.row_steps += CHECK_EVERY * len(self.rows)

    def _fill(self, free: list[int], waiting: deque[int]) -> None:
        """Give free slots to waiting rows, and send whole tensors so that sizes stay fixed."""
        fresh = [False] * len(self.rows)
        for slot in free:
            self.rows[slot] = waiting.popleft() if waiting else self.table.spare
            fresh[slot] = self.rows[slot] != self.table.spare
        members: list[list[int]] = [[] for _ in self.encoded]
        places = [0] * len(self.rows)
        for slot, row in enumerate(self.rows):
            if row != self.table.spare:
                prompt = self.table.prompt_of_row[row]
                places[slot] = prompt * self.group_size + len(members[prompt])
                members[prompt].append(slot)
        grid = [slots + [0] * (self.group_size - len(slots)) for slots in members]
        token = torch.tensor([self.last_token[row] for row in self.rows]).to(self.device)
        new = torch.tensor(fresh).to(self.device)
        self.row = torch.tensor(self.rows).to(self.device)
        self.grid, self.place = grid_of_heads(
            torch.tensor(grid).to(self.device), torch.tensor(places).to(self.device), self._heads
        )
        self.token, self.index = torch.where(new, token, self.token), self.index.masked_fill(new, 0)
        self.done = self.done & ~new

    def _step(self, span: int) -> None:
        """Decode one token in each slot, with at most ``span`` keys."""
        at = (self._offset + self.index[:, None]).flatten()
        later = self._steps[:span] > self.index[:, None]
        bias = torch.zeros_like(later, dtype=self.decoder.score_dtype).masked_fill(later, -torch.inf)
        bias = bias.repeat_interleave(len(self._heads), 0)[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.own.write(layer, at, key, value)
            return shared_attention(layer, query, self.prompts, self.own, self.grid, self.place, bias)

        position = self.start[self.row] + self.index
        x = embedding(self.token, self.decoder.embedding)
        hidden = self.decoder(x, (self.rotation[0][position], self.rotation[1][position]), attend)
        row = self.row.masked_fill(self.done, self.table.spare)
        self.token, last = self.table.draw(row, self.index, self.decoder.logits(hidden))
        self.done = self.done | last
        self.index = self.index + ~self.done


def _rounded(size: int, full: int) -> int:
    """Return the smallest of a quarter, a half or all of ``full`` that fits ``size``."""
    return next(part for part in (-(-full // 4), -(-full // 2), full) if part >= size)
